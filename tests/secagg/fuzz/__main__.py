"""``python -m tests.secagg.fuzz --minutes 30``: see the package."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tests.secagg.fuzz.tally import VECTORS, Vector
from tests.secagg.fuzz.worker import CURRENT_BYTES

ROOT = Path(__file__).parents[3]


class Campaign:
    """The child processes, and the sum of what they report."""

    def __init__(self, *, workers: int, messages: int, seconds: float, seed: str, only: str = "") -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.findings: list[Vector] = []
        self._lock = threading.Lock()
        each = ["--messages", str(-(-messages // workers)), "--seconds", str(seconds), "--only", only]
        self._arguments = [["--seed", f"{seed}/{number}", *each] for number in range(workers)]

    @property
    def total(self) -> int:
        """Messages tried; sessions are counted apart."""
        return sum(count for (target, _), count in self.counts.items() if not target.startswith("session "))

    def run(self, *, progress: bool) -> None:
        """Fuzz until the children are done."""
        threads = [threading.Thread(target=self._child, args=(arguments,)) for arguments in self._arguments]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            threads[0].join(2) if threads[0].is_alive() else time.sleep(0.2)
            if progress:
                spent = time.monotonic() - began
                line = f"{spent:6.0f} s  {self.total:,} messages  {self.total / spent:,.0f}/s"
                print(f"\r{line}  {len(self.findings)} findings", end="", file=sys.stderr, flush=True)
        if progress:
            print(file=sys.stderr)

    def _child(self, arguments: list[str]) -> None:
        with tempfile.NamedTemporaryFile() as current:
            current.truncate(CURRENT_BYTES)
            command = [sys.executable, "-m", "tests.secagg.fuzz.worker", *arguments, "--current", current.name]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                for line in child.stdout:
                    self._take(json.loads(line))
            if child.returncode:
                data = Path(current.name).read_bytes()
                last = data[4 : 4 + int.from_bytes(data[:4], "big")]
                with self._lock:
                    self.findings.append(Vector("process", f"died {child.returncode}", last.hex()))

    def _take(self, batch: dict[str, list[list[str]]]) -> None:
        with self._lock:
            for target, outcome, count in batch["counts"]:
                self.counts[target, outcome] += int(count)
            self.findings += [Vector(**finding) for finding in batch["findings"]]  # type: ignore[arg-type]

    def table(self) -> str:
        """A row a target: messages, then outcomes by frequency."""
        rows = []
        for target in sorted({target for target, _ in self.counts}):
            outcomes = Counter({outcome: n for (of, outcome), n in self.counts.items() if of == target})
            shares = ", ".join(f"{outcome} {n:,}" for outcome, n in outcomes.most_common())
            rows.append(f"{target:<44} {outcomes.total():>10,}  {shares}")
        return "\n".join(rows)


def main() -> int:
    """Fuzz, and print what came of it; 1 if there is a finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.secagg.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1, help="stop after so long (default 1)")
    parser.add_argument("--messages", type=int, default=1 << 62, help="stop after so many")
    parser.add_argument("--seed", default="0", help="of the mutations; never of a key (default 0)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--only", default="", help="regular expression of protocols and decoders")
    options = parser.parse_args()
    campaign = Campaign(
        workers=options.workers,
        messages=options.messages,
        seconds=60 * options.minutes,
        seed=options.seed,
        only=options.only,
    )
    campaign.run(progress=True)
    print(campaign.table())
    sessions = sum(campaign.counts.values()) - campaign.total
    print(f"\n{campaign.total:,} messages, beside which {sessions:,} sessions were played; seed {options.seed}")
    for vector in campaign.findings:
        print(f"FINDING {vector.target}: {vector.fault}: {vector.detail:.200} -> {vector.save(VECTORS)}")
    return 1 if campaign.findings else 0


if __name__ == "__main__":
    sys.exit(main())
