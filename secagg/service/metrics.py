"""What a service counts, for Prometheus. The names and labels are fixed in docs/service_status.md.

No label is a party's id: labels are kept for ever, and a label for each party would both fill the memory of whoever
scrapes them and say when each party was there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from secagg.errors import FaultKind

MessageResult = Literal["accepted", "repeated", "refused", "failed"]
SessionResult = Literal["done", "failed"]

_RECEIVE_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)
_ROUND_SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400)


class Metrics:
    """The metrics of one service, in a registry of their own.

    ``messages``: one for each upload, by protocol round and result. ``"repeated"`` is the same bytes again;
    ``"refused"`` was not asked for, not authentic or too large; ``"failed"`` could not be kept. ``receive_seconds``
    is the time in ``Server.receive``. ``pending``, ``waiting_polls`` and ``spool_bytes`` are read when somebody
    asks: see :meth:`watch`.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._messages = Counter(
            "secagg_messages", "Messages from parties, by round and result", ("round", "result"), registry=registry
        )
        self._receive = Histogram(
            "secagg_receive_seconds", "Seconds to take one message in", buckets=_RECEIVE_SECONDS, registry=registry
        )
        self._ingest = Counter("secagg_ingest_bytes", "Bytes of messages that were taken in", registry=registry)
        self._rounds = Histogram(
            "secagg_round_seconds",
            "Seconds a round was open",
            ("round",),
            buckets=_ROUND_SECONDS,
            registry=registry,
        )
        self._faults = Counter("secagg_faults", "Faults, by kind", ("kind",), registry=registry)
        self._sessions = Counter(
            "secagg_sessions", "Sessions that ended, by result", ("result",), registry=registry
        )
        self._epsilon = Gauge(
            "secagg_epsilon_spent", "Epsilon spent over the run, by the task's digest", ("task",), registry=registry
        )
        self._pending = Gauge("secagg_pending", "Parties whose answer is awaited", registry=registry)
        self._polls = Gauge("secagg_waiting_polls", "Polls that wait for work", registry=registry)
        self._spool = Gauge("secagg_spool_bytes", "Bytes in the spools of sessions", registry=registry)
        for kind in FaultKind:  # a series that is there from the start makes rates right from the first fault
            self._faults.labels(kind)
        for result in ("done", "failed"):
            self._sessions.labels(result)

    def message(self, round_name: str, result: MessageResult, size: int = 0, seconds: float | None = None) -> None:
        """Count one message of ``size`` bytes, which took ``seconds`` in ``Server.receive`` if it got there."""
        self._messages.labels(round_name, result).inc()
        if result == "accepted":
            self._ingest.inc(size)
        if seconds is not None:
            self._receive.observe(seconds)

    def round_closed(self, round_name: str, seconds: float) -> None:
        """Count one round that was open for ``seconds``."""
        self._rounds.labels(round_name).observe(seconds)

    def fault(self, kind: FaultKind) -> None:
        """Count one fault."""
        self._faults.labels(FaultKind(kind)).inc()

    def session_ended(self, result: SessionResult) -> None:
        """Count one session that ended."""
        self._sessions.labels(result).inc()

    def watch_epsilon(self, task: str, spent: Callable[[], float]) -> None:
        """Read the ε that the run of ``task`` (its digest) has spent whenever the metrics are asked for."""
        self._epsilon.labels(task[:12]).set_function(spent)

    def watch(
        self, *, pending: Callable[[], float], waiting_polls: Callable[[], float], spool_bytes: Callable[[], float]
    ) -> None:
        """Read these three from the service whenever the metrics are asked for; each call must be quick."""
        self._pending.set_function(pending)
        self._polls.set_function(waiting_polls)
        self._spool.set_function(spool_bytes)
