"""Unit rates of this machine: what the parts of a protocol cost, fitted to small real sessions.

The time of a role is a sum of terms. Each term is a count that follows from the protocol (words of masks,
neighbours, bytes of ciphertexts) times a rate. The rates are the non-negative ones that fit the sessions best in
relative error. Masks, signatures and hashes are measured by themselves: small sessions cannot separate them.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import median

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.measure import Bench
from bench.workloads import Workload
from secagg import OneShot, simulation, wire
from secagg.errors import ConfigError
from secagg.lanes import widths
from secagg.protocols.base import AggregationProtocol
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.protocols.oneshot.parameters import OneShotParameters
from secagg.protocols.pairwise.parameters import Pairwise
from secagg.session import roster_digest, session_id
from secagg.table import Proposal, input_round

_SMALL = 4096
_LARGE = 1 << 20
_WIDE_BITS = 30  # a sum of eight values of 30 bits has 33 bits, which needs a lane of 64
_COHORT = 4096  # ids of a proposal whose reading is timed
_AIM_SECONDS = 1.5  # core-seconds of the longest session of a protocol


@dataclass(frozen=True)
class Counts:
    """The numbers that costs depend on."""

    n: int  # clients
    g: int  # silent clients
    d: int  # coordinates
    k: int  # neighbours of a client; 0 where clients do not mask in pairs
    q: int  # signatures that a client checks; 0 where nobody signs
    v: int  # bytes of an encrypted vector; the coordinates where nothing is encrypted
    w: int = 1  # words of 32 bits that a masked coordinate takes in memory
    s: int = 0  # bytes of a member's share of a client's key; 0 where no key is shared

    @classmethod
    def of(cls, protocol: AggregationProtocol, workload: Workload) -> Counts:
        """The counts of ``workload`` under ``protocol``. ``ConfigError`` if the protocol cannot run it."""
        task = workload.task(protocol)
        n, d = workload.clients, max(segment.length for segment in task.segments)  # noise pads a vector
        k = q = 0
        v, w, s = d, 1, 0
        if isinstance(protocol, Pairwise):
            shape = protocol.shape(task, n, protocol.corrupt(n, None))
            k, q = shape.degree, shape.quorum
            w = 1 if widths(task)[0] <= 32 else 2
        elif isinstance(protocol, Encrypted):
            v = protocol.cost(task, ["c1"] * 2).up[input_round(protocol)]
        elif isinstance(protocol, OneShotParameters):
            scheme, committee = protocol.scheme(task), protocol.committee
            v, s = scheme.size, committee.share_bytes(scheme.degree, committee.members - 1)
        return cls(n, workload.gone, d, k, q, v, w, s)


@dataclass(frozen=True)
class Term:
    """A part of the time of a role: how often it is done.

    ``symbols`` says it to a reader, in the symbols of :class:`Counts`; ``count`` computes it. A test compares them.
    """

    symbols: str
    count: Callable[[Counts], float] = field(compare=False)

    def __str__(self) -> str:
        """The symbols."""
        return self.symbols


FIXED = Term("1", lambda c: 1)
SIGNATURE = Term("q", lambda c: c.q)
HASHED = Term("q·(n/4+300)", lambda c: c.q * (c.n / 4 + 300))  # bytes under signatures
OWN_MASKS = Term("(k+1)·d·w", lambda c: (c.k + 1) * c.d * c.w)
ALL_MASKS = Term("(n−g+g·k·(1−g/n))·d·w", lambda c: (c.n - c.g + c.g * c.k * (1 - c.g / c.n)) * c.d * c.w)
COORDINATES = Term("d", lambda c: c.d)
CLIENTS = Term("n", lambda c: c.n)
VECTOR = Term("v", lambda c: c.v)
VECTORS = Term("(n−g)·v", lambda c: (c.n - c.g) * c.v)
SHARE = Term("s", lambda c: c.s)

#: By role, for SecAgg and SecAggPlus.
PAIRWISE: Mapping[str, Sequence[Term]] = {
    "client": (FIXED, COORDINATES, Term("k", lambda c: c.k), Term("k·k", lambda c: c.k**2)),
    "server": (FIXED, Term("n·d", lambda c: c.n * c.d), CLIENTS, Term("n·k", lambda c: c.n * c.k)),
}
#: By role, for OneShot.
ONE_SHOT: Mapping[str, Sequence[Term]] = {
    "client": (FIXED, VECTOR, SHARE),
    "server": (FIXED, VECTOR, CLIENTS),
    "other": (FIXED, Term("(n−g)", lambda c: c.n - c.g), Term("(n−g)·s", lambda c: (c.n - c.g) * c.s)),
}
#: By role, for all other protocols.
PLAIN: Mapping[str, Sequence[Term]] = {
    # A table that serves many ciphertexts grows with their number.
    "client": (FIXED, Term("sqrt(v)", lambda c: math.sqrt(c.v)), VECTOR),
    "server": (FIXED, VECTOR, CLIENTS, VECTORS),
    "other": (FIXED, VECTOR, CLIENTS, VECTORS),
}


@dataclass(frozen=True)
class Formula:
    """The core-seconds of a role: terms, and the rate of each in seconds."""

    terms: tuple[Term, ...]
    rates: tuple[float, ...]

    def seconds(self, counts: Counts) -> float:
        """Core-seconds at ``counts``."""
        return sum(rate * term.count(counts) for term, rate in zip(self.terms, self.rates, strict=True))

    def __str__(self) -> str:
        """The formula with its rates in units: ``1.2 ms + 0.18 ns·(k+1)·d·w``."""
        parts = [
            _rate(rate) if term == FIXED else f"{_rate(rate)}·{term}"
            for term, rate in zip(self.terms, self.rates, strict=True)
            if rate > 0
        ]
        return " + ".join(parts) or "0"


@dataclass(frozen=True)
class Rates:
    """The formulas of one protocol, by role: ``client``, ``server`` and, if it has other parties, ``other``."""

    formulas: Mapping[str, Formula]
    bits: int  # of a value in the sessions that were measured


def is_wide(protocol: AggregationProtocol, workload: Workload) -> bool:
    """Whether the sums of ``workload`` need lanes of 64 bits. Ciphertexts have no lanes."""
    try:
        return not isinstance(protocol, Encrypted | OneShotParameters) and max(widths(workload.task(protocol))) > 32
    except ConfigError:
        return False


def bits_like(protocol: AggregationProtocol, workload: Workload) -> int:
    """The bits of a value with which eight clients fill lanes as wide as those of ``workload``.

    These are the bits of ``workload``, unless its sums need lanes of 64 bits.
    """
    return max(workload.bits, _WIDE_BITS) if is_wide(protocol, workload) else workload.bits


def calibrate(name: str, protocol: AggregationProtocol, bits: int, step: Callable[[str, str], None]) -> Rates:
    """Play small sessions of ``protocol`` and fit its formulas. ``WrongSum`` if a sum is not exact."""
    observed: list[tuple[Counts, dict[str, float]]] = []

    def play(workload: Workload) -> float:
        bench = Bench(workload, {name: protocol})
        if not observed:
            bench.warm(name)
        bench.measure(name)  # the first session of a size builds tables that later ones reuse
        sessions = [bench.measure(name) for _ in range(2)]
        silent, clients = set(workload.silent), workload.survivors
        everyone = set(workload.ids) | {"server"}
        seconds = {
            "client": median(median(s.cpu[client] for client in clients) for s in sessions),
            "server": median(s.cpu["server"] for s in sessions),
        }
        others = [party for party in sessions[0].cpu if party not in everyone and party not in silent]
        if others:
            seconds["other"] = median(max(s.cpu[party] for party in others) for s in sessions)
        observed.append((Counts.of(protocol, workload), seconds))
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
        *([(96, 512, 0.0), (160, 512, 0.1)] if isinstance(protocol, Pairwise) else [(128, _SMALL // 2, 0.1)]),
    ):
        step(name, f"{clients} clients, {coordinates:,} coordinates")
        play(Workload(clients, coordinates, dropout, bits))
    formulas = {
        role: fit(terms, [(counts, seconds[role]) for counts, seconds in observed], _measured(protocol, role))
        for role, terms in _terms(protocol).items()
        if all(role in seconds for _, seconds in observed)
    }
    return Rates(formulas, bits)


def _terms(protocol: AggregationProtocol) -> Mapping[str, Sequence[Term]]:
    if isinstance(protocol, Pairwise):
        return PAIRWISE
    return ONE_SHOT if isinstance(protocol, OneShotParameters) else PLAIN


def fit(
    terms: Sequence[Term], observed: Sequence[tuple[Counts, float]], known: Sequence[tuple[Term, float]] = ()
) -> Formula:
    """Fit non-negative rates of ``terms`` to the ``observed`` seconds, with the least relative error.

    The formula has the ``known`` terms too, with the rates that stand with them.
    """
    from scipy.optimize import nnls

    rest = [max(s - sum(r * t.count(c) for t, r in known), 0.1 * s) for c, s in observed]
    rows = np.array([[term.count(counts) for term in terms] for counts, _ in observed], float)
    seconds = np.array(rest)
    weighted = rows / np.array([s for _, s in observed])[:, None]
    scale = np.maximum(weighted.max(axis=0), 1e-300)
    rates = nnls(weighted / scale, seconds / np.array([s for _, s in observed]))[0] / scale
    return Formula((*terms, *(term for term, _ in known)), (*map(float, rates), *(rate for _, rate in known)))


def _measured(protocol: AggregationProtocol, role: str) -> list[tuple[Term, float]]:
    """Terms whose rates are measured by themselves.

    In small sessions masks and lists of ids are cheap, and a client has as many neighbours as signatures to check.
    To open one vector takes OneShot's server as long as to add all of theirs.
    """
    if isinstance(protocol, OneShotParameters) and role == "server":
        return [(VECTORS, added_seconds())]
    if not isinstance(protocol, Pairwise):
        reads = role == "client" or (role == "other" and isinstance(protocol, OneShotParameters))
        return [(CLIENTS, id_seconds())] if reads else []
    if role == "server":
        return [(ALL_MASKS, mask_seconds())]
    checked = [(SIGNATURE, signature_seconds()), (HASHED, hash_seconds())]
    return [(OWN_MASKS, mask_seconds()), *(checked if protocol.checked else ())]


def mask_seconds() -> float:
    """Seconds to generate and add one word of a mask of a million words."""
    from mpc.masks import add_mask

    vector = np.zeros(1 << 20, np.uint32)
    add_mask(vector, bytes(32))
    return _each(lambda: add_mask(vector, bytes(32)), 10) / vector.size


def signature_seconds() -> float:
    """Seconds to read an Ed25519 key and verify one signature of 32 bytes under it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PrivateKey.generate()
    public, signature = key.public_key().public_bytes_raw(), key.sign(bytes(32))
    return _each(lambda: Ed25519PublicKey.from_public_bytes(public).verify(signature, bytes(32)), 200)


@cache
def added_seconds() -> float:
    """Seconds to hash, copy and add up one byte of a vector under a one-time key."""
    one = OneShot()
    scheme = one.scheme(Workload(100, 1 << 20, 0.0).task(one))
    adder, upload = scheme.adder(), bytes(scheme.size)  # zeros are residues too

    def add() -> None:
        hashlib.sha256(upload).digest()
        adder.fold(bytes(bytearray(upload)))

    return _each(add, 5) / scheme.size


@cache
def id_seconds() -> float:
    """Seconds to read one id of a cohort from a proposal, check it, and hash it into the session id."""
    workload = Workload(_COHORT, 1, 0.0)
    task = workload.task(OneShot())
    roster = simulation.enrol_for(task, workload.ids)[1]
    sealed = wire.seal_envelope(
        Proposal(workload.ids, b"bench", bytes(32)),
        protocol=task.protocol.ID,
        task=task.digest,
        session=b"",
        sender=wire.SERVER,
    )

    def read() -> None:
        proposal, _ = wire.Envelope.parse(sealed, len(sealed)).open(Proposal)
        task.check_cohort(proposal.cohort, roster)
        session_id(
            task=task.digest,
            roster=roster_digest(roster),
            session=proposal.session,
            nonce=proposal.nonce,
            cohort=proposal.cohort,
        )

    return _each(read, 5) / _COHORT


def hash_seconds() -> float:
    """Seconds to hash one byte by SHA-256."""
    data = bytes(1 << 20)
    return _each(lambda: hashlib.sha256(data).digest(), 20) / len(data)


def _each(call: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(times):
            call()
        seconds.append((time.process_time() - began) / times)
    return median(seconds)


def _rate(seconds: float) -> str:
    for unit, least in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if seconds >= least:
            return f"{seconds / least:.3g} {unit}"
    return f"{seconds / 1e-12:.3g} ps"
