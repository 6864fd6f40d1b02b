"""The child process that does the fuzzing, under a limit on its memory.

After each turn through all targets it writes a line of JSON: what it counted in that turn, and what it found.
"""

from __future__ import annotations

import argparse
import json
import logging
import mmap
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random

from tests.secagg.fuzz.roles import Case, FuzzedSession, cases
from tests.secagg.fuzz.table import every_decoder
from tests.secagg.fuzz.tally import Tally

HEADROOM = 96 << 20  # bytes beyond what a warm process holds
CURRENT_BYTES = 1 << 20
DECODER_BATCH = 200
SLOW_BATCH = 20
MOST_FINDINGS = 20

Batch = Callable[[Random, Tally], None]


def targets(folder: Path, only: str = "") -> list[Batch]:
    """All that is fuzzed, each as a function that tries some dozens to hundreds of messages.

    ``only`` is a regular expression, found in the names of the protocols and decoders.
    """
    all_cases = [case for case in cases() if re.search(only, case.name)]
    every = [decoder for decoder in every_decoder(all_cases, folder) if re.search(only, decoder.name)]
    findings: list[Batch] = [
        partial(decoder.run, SLOW_BATCH if decoder.slow else DECODER_BATCH) for decoder in every
    ]
    # Roles have more states than decoders have: half of all messages go to them.
    return findings + 3 * [partial(fuzz_session, case) for case in all_cases]


def fuzz_session(case: Case, rng: Random, tally: Tally) -> None:
    """One session of ``case``."""
    FuzzedSession(case, rng, tally).run()


def limit_memory(headroom: int = HEADROOM) -> int:
    """Let this process have ``headroom`` bytes more than it has now; returns the limit."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + headroom
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return limit


def report(tally: Tally) -> None:
    """Write what is new, and forget it."""
    counts = [[*where, count] for where, count in tally.counts.items()]
    findings = [asdict(vector) for vector in tally.findings]
    print(json.dumps({"counts": counts, "findings": findings}), flush=True)
    tally.counts.clear()
    tally.findings.clear()


def main() -> None:
    """Run as a child of ``python -m tests.secagg.fuzz``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--current", type=Path, required=True)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    logging.disable()
    with (
        tempfile.TemporaryDirectory() as folder,
        options.current.open("r+b") as file,
        mmap.mmap(file.fileno(), CURRENT_BYTES) as current,
    ):
        rng, tally = Random(options.seed), Tally(current)
        batches = targets(Path(folder), options.only)
        for batch in batches:
            batch(rng, tally)
        limit_memory()
        ends, tried, findings = time.monotonic() + options.seconds, 0, 0
        while tried < options.messages and time.monotonic() < ends and findings < MOST_FINDINGS:
            for batch in batches:
                batch(rng, tally)
            tried, findings = tried + tally.total, findings + len(tally.findings)
            report(tally)


if __name__ == "__main__":
    sys.exit(main())
