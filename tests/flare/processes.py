"""Processes that are ended with their children, also with those that have left their group, as NVFlare's do."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
STARTUP = Path(__file__).parent / "startup"  # what each process does first


class Processes:
    """Processes whose environment has a mark: the folder in which they run. Use it in a ``with`` block.

    Their home is this folder too, so no setting of the user's steers a test, and none is changed by it.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.mark = f"FLARE_TEST={folder}".encode()
        own = {
            "FLARE_TEST": str(folder),
            "HOME": str(folder),
            "NO_COLOR": "1",
            "PYTHONPATH": f"{STARTUP}:{ROOT}",
        }
        self.environment = os.environ | own | environment
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to ``NAME.log`` in the folder."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=self.environment, cwd=self.folder
            )
        return self.running[name]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def remaining(self) -> list[int]:
        """The processes with the mark that still run, by id."""
        pids = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if self.mark in path.read_bytes().split(b"\0"):
                    pids.append(int(path.parent.name))
        return pids

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        while pids := self.remaining():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self.running.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
            time.sleep(0.05)
        for process in self.running.values():
            process.wait()
