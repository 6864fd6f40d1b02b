"""What was tried, what came of it, and what should not have happened."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[2] / "vectors" / "negative"


@dataclass(frozen=True)
class Vector:
    """A message that no honest party sends, and what a ``target`` has to make of it.

    ``fault`` is a :class:`secagg.FaultKind` for messages that are refused as they should be, and a
    description of what went wrong for a finding.
    """

    target: str
    fault: str
    message: str  # hex
    sender: str = ""  # as the transport names it, of a message to a server
    detail: str = ""

    @property
    def data(self) -> bytes:
        return bytes.fromhex(self.message)

    def save(self, folder: Path, name: str = "") -> Path:
        """Write it under ``name``, or one made of fault, target and digest."""
        folder.mkdir(parents=True, exist_ok=True)
        plain = re.sub(r"[^A-Za-z0-9]+", "-", name or f"{self.fault} {self.target}").strip("-").lower()
        digest = "" if name else "-" + hashlib.sha256(self.data).hexdigest()[:8]
        path = folder / f"{plain}{digest}.json"
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> Vector:
        return cls(**json.loads(path.read_text()))


class Tally:
    """Counts by target and outcome; holds the findings."""

    def __init__(self, current: Any = None) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.findings: list[Vector] = []
        self._current = current  # shared memory, read by the parent should this process die

    @property
    def total(self) -> int:
        return self.counts.total()

    def trying(self, data: bytes) -> None:
        """Leave ``data`` where it is found after a crash."""
        if self._current is not None:
            kept = data[: len(self._current) - 4]
            self._current[: 4 + len(kept)] = len(kept).to_bytes(4, "big") + kept

    def count(self, target: str, outcome: str) -> None:
        self.counts[target, outcome] += 1

    def finding(self, target: str, fault: str, data: bytes, detail: object = "", sender: str = "") -> None:
        self.count(target, f"FINDING {fault}")
        self.findings.append(Vector(target, fault, data.hex(), sender, f"{detail!s:.500}"))
