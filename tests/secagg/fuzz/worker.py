"""The child process that does the fuzzing, under a limit on its memory.

It writes a line of JSON a second: what it counted since the last one, and what it found.
"""

from __future__ import annotations

import argparse
import json
import logging
import mmap
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random

from tests.secagg.fuzz.decoders import decoders
from tests.secagg.fuzz.roles import Session, scenes
from tests.secagg.fuzz.tally import Tally

HEADROOM = 96 << 20  # bytes beyond what a warm process holds
CURRENT_BYTES = 1 << 20
DECODER_BATCH = 200
MOST_FINDINGS = 20

Batch = Callable[[Random, Tally], None]


def targets(folder: Path) -> list[Batch]:
    """All that is fuzzed, each as a function that tries some dozens to hundreds of messages."""
    played = scenes()
    found: list[Batch] = [
        lambda rng, tally, d=d: d.run(DECODER_BATCH, rng, tally) for d in decoders(played, folder)
    ]
    # Roles have more states than decoders have: half of all messages go to them.
    found += [lambda rng, tally, s=s: Session(s, rng, tally).run() for s in played for _ in range(3)]
    return found


def limit_memory(headroom: int = HEADROOM) -> int:
    """Let this process have ``headroom`` bytes more than it has now; returns the limit."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + headroom
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return limit


def fuzz(batches: list[Batch], rng: Random, tally: Tally, stop: Callable[[], bool]) -> Iterator[None]:
    """Go through ``batches`` again and again; yields between them."""
    while True:
        for batch in batches:
            if stop() or len(tally.findings) >= MOST_FINDINGS:
                return
            batch(rng, tally)
            yield


def report(tally: Tally) -> None:
    """Write what is new, and forget it."""
    counts = [[*where, count] for where, count in tally.counts.items()]
    print(json.dumps({"counts": counts, "findings": [asdict(vector) for vector in tally.findings]}), flush=True)
    tally.counts.clear()
    tally.findings.clear()


def main() -> None:
    """Run as a child of ``python -m tests.secagg.fuzz``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--current", type=Path, required=True)
    options = parser.parse_args()
    logging.disable()
    with (
        tempfile.TemporaryDirectory() as folder,
        options.current.open("r+b") as file,
        mmap.mmap(file.fileno(), CURRENT_BYTES) as current,
    ):
        rng, tally = Random(options.seed), Tally(current)
        batches = targets(Path(folder))
        ends, tried, told, found = time.monotonic() + options.seconds, 0, time.monotonic(), 0
        for batch in batches:
            batch(rng, tally)
        limit_memory()
        for _ in fuzz(
            batches, rng, tally, lambda: tried + tally.total >= options.messages or time.monotonic() > ends
        ):
            if time.monotonic() - told > 1:
                tried, found, told = tried + tally.total, found + len(tally.findings), time.monotonic()
                report(tally)
                if found >= MOST_FINDINGS:
                    break
        report(tally)


if __name__ == "__main__":
    sys.exit(main())
