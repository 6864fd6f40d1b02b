"""Estimates how long a session takes before it is played, from the sessions of its protocol so far.

Estimates decide only which points of a sweep are left out. They are rough: a few small sessions give the rates of
what all parties do together, and masks, signatures and hashes are measured by themselves, because small sessions
have few of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from bench.rates import FIXED, Counts, Term, fit, hash_seconds, mask_seconds, signature_seconds
from bench.workloads import Workload
from secagg.protocols.base import AggregationProtocol
from secagg.protocols.pairwise.parameters import Pairwise

#: Small sessions, each of which is over in a fraction of a second.
PROBES = (
    Workload(clients=8, coordinates=1000, dropout=0.0),
    Workload(clients=8, coordinates=40_000, dropout=0.0),
    Workload(clients=32, coordinates=1000, dropout=0.1),
)
#: What all parties of a session do.
SESSION: Sequence[Term] = (
    FIXED,
    Term("n", lambda c: c.n),
    Term("n·v", lambda c: c.n * c.v),
    Term("n·k", lambda c: c.n * c.k),
    Term("n·s", lambda c: c.n * c.s),
)
_MASKS = Term("(n·(k+2)+g·k)·d·w", lambda c: (c.n * (c.k + 2) + c.g * c.k) * c.d * c.w)
_SIGNATURES = Term("n·q", lambda c: c.n * c.q)
_HASHED = Term("n·q·(n/4+300)", lambda c: c.n * c.q * (c.n / 4 + 300))


class Estimates:
    """Seconds of sessions that were not played yet, by protocol."""

    def __init__(self, protocols: Mapping[str, AggregationProtocol]) -> None:
        self._protocols = protocols
        self._played: dict[str, list[tuple[Counts, float]]] = defaultdict(list)
        self._known: dict[str, list[tuple[Term, float]]] = {}

    def probe(self, name: str, play: Callable[[Workload], float]) -> None:
        """Play the small sessions, once for each protocol. ``play`` returns the seconds of one."""
        if name in self._known:
            return
        protocol = self._protocols[name]
        masks, signed = isinstance(protocol, Pairwise), getattr(protocol, "checked", False)
        self._known[name] = [
            *([(_MASKS, mask_seconds())] if masks else []),
            *([(_SIGNATURES, signature_seconds()), (_HASHED, hash_seconds())] if masks and signed else []),
        ]
        for workload in PROBES:
            self.add(name, workload, play(workload))

    def add(self, name: str, workload: Workload, seconds: float) -> None:
        """Take note of a session that was played."""
        self._played[name].append((Counts.of(self._protocols[name], workload), seconds))

    def seconds(self, name: str, workload: Workload) -> float:
        """About how long a session of all parties in this process takes; 0 before anything was played."""
        played = self._played[name]
        if not played:
            return 0.0
        return fit(SESSION, played, self._known.get(name, ())).seconds(Counts.of(self._protocols[name], workload))
