"""Unit rates of this machine: what a protocol's parts cost, fitted to small real sessions.

A role's time is a sum of terms, each a count that follows from the protocol (masks of d coordinates, neighbours,
ciphertexts) times a rate. The rates are the non-negative ones that fit the sessions best in relative error;
what small sessions can't tell apart, signatures and hashing, is measured by itself.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.measure import Bench
from bench.workloads import Workload
from secagg.errors import ConfigError
from secagg.lanes import widths
from secagg.protocols.base import AggregationProtocol
from secagg.table import input_round

_SMALL = 4096
_LARGE = 1 << 20
_WIDE_BITS = 30  # of which eight make 33
_AIM_SECONDS = 1.5  # of all cores, in the longest of a protocol's sessions


@dataclass(frozen=True)
class Counts:
    """What costs depend on: n clients, g of them silent, d coordinates; k neighbours, q signatures on a list."""

    n: int
    g: int
    d: int
    k: int
    q: int
    v: int  # bytes of an encrypted vector; the coordinates where nothing is encrypted
    w: int = 1  # words of 32 bits that a masked coordinate takes in memory

    @classmethod
    def of(cls, protocol: AggregationProtocol, workload: Workload) -> Counts:
        """Of ``workload`` under ``protocol``; raises its ``ConfigError`` if it can't carry it."""
        task = workload.task(protocol)
        n, d = workload.clients, workload.coordinates
        k = q = 0
        v, w = d, 1
        if pairwise(protocol):
            shape = protocol.shape(task, n, protocol.corrupt(n, None))  # type: ignore[attr-defined]
            k, q = shape.degree, shape.quorum
            w = 1 if widths(task)[0] <= 32 else 2
        elif hasattr(protocol, "scheme"):
            v = protocol.cost(task, ["c1"] * 2).up[input_round(protocol)]
        return cls(n, workload.gone, d, k, q, v, w)


@dataclass(frozen=True)
class Term:
    """A part of a role's time: how often it is done, in the symbols of :class:`Counts`; ``1`` for what is fixed."""

    expression: str

    def count(self, counts: Counts) -> float:
        """How often at these counts."""
        return float(eval(self.expression, {"sqrt": math.sqrt}, asdict(counts)))

    def __str__(self) -> str:
        return self.expression.replace("*", "·").replace("-", "−")


FIXED = Term("1")
SIGNATURE = Term("q")
HASHED = Term("q*(n/4+300)")  # bytes of signed lists

OWN_MASKS = Term("(k+1)*d*w")
ALL_MASKS = Term("(n-g+g*k*(1-g/n))*d*w")

#: By role, for SecAgg and SecAggPlus.
PAIRWISE: Mapping[str, Sequence[Term]] = {
    "client": (FIXED, Term("d"), Term("k"), Term("k*k")),
    "server": (FIXED, Term("n*d"), Term("n"), Term("n*k")),
}
#: By role, for everything else; v is the bytes of a ciphertext, or d where there is none.
PLAIN: Mapping[str, Sequence[Term]] = {
    # Tables that serve many ciphertexts are the larger the more there are.
    "client": (FIXED, Term("sqrt(v)"), Term("v")),
    "server": (FIXED, Term("v"), Term("n"), Term("(n-g)*v")),
    "other": (FIXED, Term("v"), Term("n"), Term("(n-g)*v")),
}


@dataclass(frozen=True)
class Formula:
    """A role's core-seconds: terms with their rates, in seconds each."""

    terms: tuple[Term, ...]
    rates: tuple[float, ...]

    def seconds(self, counts: Counts) -> float:
        """At these counts."""
        return sum(rate * term.count(counts) for term, rate in zip(self.terms, self.rates, strict=True))

    def __str__(self) -> str:
        """With the rates in words: ``1.2 ms + 0.18 ns·(k+1)·d·w``."""
        parts = [
            _rate(rate) if term == FIXED else f"{_rate(rate)}·{term}"
            for term, rate in zip(self.terms, self.rates, strict=True)
            if rate > 0
        ]
        return " + ".join(parts) or "0"


@dataclass(frozen=True)
class Rates:
    """The formulas of one protocol, by role: ``client``, ``server`` and, where there are any, ``other``."""

    formulas: Mapping[str, Formula]
    bits: int  # a value


def bits_like(protocol: AggregationProtocol, workload: Workload) -> int:
    """The bits at which eight clients' sums take lanes as wide as those of ``workload``; its own, if they do.

    Ciphertexts have no lanes.
    """
    try:
        wide = not hasattr(protocol, "scheme") and max(widths(workload.task(protocol))) > 32
    except ConfigError:
        wide = False
    return max(workload.bits, _WIDE_BITS) if wide else workload.bits


def pairwise(protocol: AggregationProtocol) -> bool:
    """Whether clients mask in pairs."""
    return hasattr(protocol, "sparse")


def calibrate(name: str, protocol: AggregationProtocol, bits: int, step: Callable[[str, str], None]) -> Rates:
    """Play small sessions of ``protocol``, every sum checked, and fit its formulas. Raises ``WrongSum``."""
    observed: list[tuple[Counts, dict[str, float]]] = []

    def play(workload: Workload) -> float:
        bench = Bench(workload, {name: protocol})
        if not observed:
            bench.warm(name)
        # The first builds what this size of cohort needs for the first time, as no later session will.
        bench.measure(name)
        sessions = [bench.measure(name) for _ in range(2)]
        silent, clients = set(workload.silent), workload.survivors
        everyone = set(workload.ids) | {"server"}
        found = {
            "client": median(median(s.cpu[client] for client in clients) for s in sessions),
            "server": median(s.cpu["server"] for s in sessions),
        }
        others = [party for party in sessions[0].cpu if party not in everyone and party not in silent]
        if others:
            found["other"] = median(max(s.cpu[party] for party in others) for s in sessions)
        observed.append((Counts.of(protocol, workload), found))
        return sum(sessions[-1].cpu.values())

    small = Workload(8, _SMALL, 0.0, bits)
    step(name, "small sessions")
    least = play(small)
    large = Workload(8, 8 * _SMALL, 0.0, bits)
    took = play(large)
    each = max(took - least, took / 4) / (7 * _SMALL)
    most = int(min(_LARGE, max(16 * _SMALL, _AIM_SECONDS / each)))
    for clients, coordinates, dropout in (
        (8, most, 0.0),
        (12, most // 3, 0.25),
        (24, most // 6, 0.25),
        (32, _SMALL, 0.0),
        (64, _SMALL // 2, 0.0),
        *([(96, 512, 0.0), (160, 512, 0.1)] if pairwise(protocol) else [(128, _SMALL // 2, 0.1)]),
    ):
        step(name, f"{clients} clients, {coordinates:,} coordinates")
        play(Workload(clients, coordinates, dropout, bits))
    shapes = PAIRWISE if pairwise(protocol) else PLAIN
    formulas = {
        role: fit(terms, [(counts, found[role]) for counts, found in observed], _known(protocol, role))
        for role, terms in shapes.items()
        if all(role in found for _, found in observed)
    }
    return Rates(formulas, bits)


def fit(
    terms: Sequence[Term], observed: Sequence[tuple[Counts, float]], known: Sequence[tuple[Term, float]] = ()
) -> Formula:
    """The non-negative rates that fit best in relative error; ``known`` ones are taken as they are."""
    from scipy.optimize import nnls

    rest = [max(s - sum(r * t.count(c) for t, r in known), 0.1 * s) for c, s in observed]
    rows = np.array([[term.count(counts) for term in terms] for counts, _ in observed], float)
    seconds = np.array(rest)
    weighted = rows / np.array([s for _, s in observed])[:, None]
    scale = np.maximum(weighted.max(axis=0), 1e-300)
    rates = nnls(weighted / scale, seconds / np.array([s for _, s in observed]))[0] / scale
    return Formula((*terms, *(term for term, _ in known)), (*map(float, rates), *(rate for _, rate in known)))


def _known(protocol: AggregationProtocol, role: str) -> list[tuple[Term, float]]:
    """What small sessions can't tell apart: masks are cheap in them, and neighbours as many as signers."""
    if not pairwise(protocol):
        return []
    if role == "server":
        return [(ALL_MASKS, mask_seconds())]
    checked = [(SIGNATURE, signature_seconds()), (HASHED, hash_seconds())]
    return [(OWN_MASKS, mask_seconds()), *(checked if protocol.checked else ())]  # type: ignore[attr-defined]


def mask_seconds() -> float:
    """To make and add one word of a mask of a million."""
    from mpc.masks import add_mask

    vector = np.zeros(1 << 20, np.uint32)
    add_mask(vector, bytes(32))
    return _each(lambda: add_mask(vector, bytes(32)), 10) / vector.size


def signature_seconds() -> float:
    """To verify one Ed25519 signature of 32 bytes, its key read first."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PrivateKey.generate()
    public, signature = key.public_key().public_bytes_raw(), key.sign(bytes(32))
    return _each(lambda: Ed25519PublicKey.from_public_bytes(public).verify(signature, bytes(32)), 200)


def hash_seconds() -> float:
    """To hash one byte by SHA-256."""
    data = bytes(1 << 20)
    return _each(lambda: hashlib.sha256(data).digest(), 20) / len(data)


def _each(call: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            call()
        found.append((time.process_time() - began) / times)
    return median(found)


def _rate(seconds: float) -> str:
    for unit, least in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if seconds >= least:
            return f"{seconds / least:.3g} {unit}"
    return f"{seconds / 1e-12:.3g} ps"
