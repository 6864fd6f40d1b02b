"""Writes what docs/pages/choose.html computes with: ``python -m docs.chooser``.

The page repeats ``python -m bench plan`` in a browser. This module writes its numbers: the measured rates of
bench/results/rates.json; for each protocol the bytes of one session, from which the page computes the constants
of its formulas; and the rings of BFV and CKKS, by bits and clients. The page computes the neighbours on a sparse
graph, the rings of OneShot, and the noise for an epsilon by the library's own formulas. tests/test_chooser.py
compares the page with the plan.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.rates import Counts
from bench.report import read_json
from bench.workloads import Floored
from dp import DistributedGaussian
from he import kahe_params, params
from mpc import graph
from secagg import BFV, CKKS, AdditiveShares, Clear, ConfigError, OneShot, Paillier, SecAgg, SecAggPlus, wire
from secagg.beacon import SLACK_BITS, SignedBeacon
from secagg.corruption import corrupt_count
from secagg.encoding import Encoding, Segment
from secagg.protocols.base import AggregationProtocol
from secagg.protocols.encrypted.messages import SessionKey
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.protocols.oneshot.parameters import OneShotParameters
from secagg.protocols.pairwise import messages
from secagg.protocols.pairwise.parameters import Pairwise
from secagg.protocols.shares.messages import MAX_UNOPENED
from secagg.table import input_round

ROOT = Path(__file__).parent.parent
RATES = ROOT / "bench" / "results" / "rates.json"
DATA = ROOT / "docs" / "pages" / "choose_data.js"

LEAST, MOST = 4, 1_000_000  # clients that the page takes
BITS = range(2, 33)  # what FixedPoint and DistributedGaussian take
WIDER = (5, 6, 8, 10, 15, 20)  # k_stddevs to try where the default leaves one client's noise no room
CENTRAL_BITS = 31  # the most that CentralGaussian takes
CORRUPTION = (0, 5, 10, 20, 33)  # per cent of the clients that may help the server
DROPOUTS = (0, 5, 10, 20, 30)  # per cent of the clients that are expected to fall silent

#: A beacon of which only the shape matters here: the costs depend on no key.
BEACON = SignedBeacon(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"), 0, 30)


def protocols(corruption: float | None = None) -> dict[str, AggregationProtocol]:
    """The protocols of the page by its names; those in which clients may collude, with this ``corruption``."""
    known: tuple[Any, ...] = (
        Clear(), SecAgg(), SecAggPlus(), SecAggPlus(threat_model="malicious", beacon=BEACON), AdditiveShares(),
        OneShot(), Paillier(), BFV(), CKKS(), CKKS(holder="clients"),
    )  # fmt: skip
    named: dict[str, AggregationProtocol] = {}
    for protocol in known:
        name = f"{protocol.name}/beacon" if getattr(protocol, "beacon", None) else protocol.name
        named[name] = (
            protocol if corruption is None or name == "Clear" else replace(protocol, corruption=corruption)
        )
    return named


def corrupt(percent: int, clients: int) -> int:
    """c: how many of the clients may help the server."""
    return corrupt_count(percent / 100, clients)


def least_survivors(protocol: AggregationProtocol, clients: int, percent: int) -> int:
    """The least ``min_survivors`` that the protocol accepts for a cohort of all ``clients``."""
    c = corrupt(percent, clients)
    quorum = protocol.quorum(clients, c) if isinstance(protocol, Pairwise) else 0
    return max(quorum, c + 2) if protocol.corruption is not None else 1


def min_survivors(protocol: AggregationProtocol, clients: int, percent: int, dropout: int) -> int:
    """What the page puts into the task: room for the silent clients that are expected, and some more.

    With ``gone`` expected, three standard deviations more are 3 √gone, if clients fall silent independently.
    """
    gone = round(dropout / 100 * clients)
    room = max(1, gone + math.ceil(3 * math.sqrt(gone)))
    return max(least_survivors(protocol, clients, percent), clients - room)


@dataclass(frozen=True)
class Noised(Floored):
    """A workload whose updates get the noise of an encoding of :mod:`dp`, if one is given."""

    noise: Encoding | None = None

    @property
    def encoding(self) -> Encoding:
        """The encoding with noise, or the one without."""
        return self.noise or super().encoding


def workload(
    protocol: AggregationProtocol,
    question: tuple[int, int, int],
    percent: int,
    dropout: int,
    noise: Encoding | None = None,
) -> Floored:
    """The workload that the page shows for ``protocol``. ``ConfigError`` if too few clients remain.

    ``question`` has the clients, the coordinates and the bits of a coordinate.
    """
    clients, coordinates, bits = question
    floor = min_survivors(protocol, clients, percent, dropout)
    return Noised(clients, coordinates, dropout / 100, bits, least=floor, noise=noise)


def steps(value: Callable[[int], Any], least: int, most: int) -> list[tuple[int, Any]]:
    """The places from ``least`` to ``most`` at which ``value`` changes, each with its new value.

    ``value`` must have one run for each of its values.
    """
    places = [(least, value(least))]
    while places[-1][1] != value(most):
        low, high = places[-1][0], most
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if value(middle) == places[-1][1] else (low, middle)
        places.append((high, value(high)))
    return places


@dataclass(frozen=True)
class _Sum:
    """The fields of a task that a scheme depends on: one segment, and how many terms its sum has."""

    segments: tuple[Segment, ...]
    max_clients: int


def rings(protocol: Encrypted) -> dict[str, Any]:
    """Rings by bits and clients.

    ``kinds`` are [slots, bytes of a ciphertext, of the head, of the key in a proposal]. For each of ``BITS``, and
    then for the bounds 2^bits - 2 (no noise, or the server's) and 2^bits - 1 (noise of the clients), ``rows`` are
    [clients from which, place among the kinds]; a place of None says that no ring carries so many. The slots of
    Paillier follow from its ``modulus``: so many bits, less one, hold as many sums as fit.
    """
    if isinstance(protocol, Paillier):
        kind = _kind(protocol, _Sum((Segment(1, 1),), 2))
        assert kind is not None
        return {"modulus": protocol.bits, "kinds": [kind]}
    kinds: list[tuple[int, int, int, int]] = []

    def place(bound: int, clients: int) -> int | None:
        kind = _kind(protocol, _Sum((Segment(1, bound),), clients))
        if kind is not None and kind not in kinds:
            kinds.append(kind)
        return None if kind is None else kinds.index(kind)

    rows = [
        [[list(row) for row in steps(partial(place, (1 << bits) - less), LEAST, MOST)] for less in (2, 1)]
        for bits in BITS
    ]
    return {"kinds": kinds, "rows": rows}


def _kind(protocol: Encrypted, task: _Sum) -> tuple[int, int, int, int] | None:
    """See :func:`rings`; None if no ring carries the sum."""
    carried: Any = task
    try:
        scheme = protocol.scheme(carried)
    except ConfigError:
        return None
    slots: Any = getattr(scheme, "slots", None)
    count = slots if isinstance(slots, int) else slots.count
    each = scheme.size(count + 1) - scheme.size(count)
    shown = wire.structure_size(SessionKey(bytes(32 if protocol.shared_key else scheme.public_size)))
    frame = wire.overhead("decryptor-1", signed=True)
    return count, each, scheme.size(1) - each, wire.string_size(frame + shown)


def key_rings(protocol: OneShotParameters) -> dict[str, Any]:
    """What the page chooses a ring of OneShot by.

    ``primes``: by ring degree and bits, the places of the largest primes that :mod:`he.kahe` may take. The prime at
    place k is 2^bits - 2·degree·k + 1. ``limits``: the most bits of a modulus by degree; ``longest``: those of a
    prime. An error of a sum is at most sqrt(2·variance·clients·demand), and at most ``key`` a client.
    """
    degrees = kahe_params.MODULUS_BITS
    most = -(-max(degrees.values()) // params.MAX_PRIME_BITS)

    def places(degree: int, bits: int) -> list[int]:
        return [((1 << bits) + 1 - prime) // (2 * degree) for prime in params.ntt_primes(degree, bits, most)]

    return {
        "primes": {
            str(degree): {
                str(bits): places(degree, bits)
                for bits in range(degree.bit_length() + 2, params.MAX_PRIME_BITS + 1)
            }
            for degree in degrees
        },
        "limits": {str(degree): bits for degree, bits in degrees.items()},
        "longest": params.MAX_PRIME_BITS,
        "variance": kahe_params.VARIANCE,
        "key": kahe_params.MAX_KEY,
        "demand": math.log(2) * (params.FAILURE_BITS + (2 * params.MAX_LENGTH).bit_length()),
        "each": _key_bytes(protocol),
        "shares": key_shares(protocol),
    }


def _key_bytes(protocol: OneShotParameters) -> int:
    """What a coefficient of a key costs in shares. OneShot weighs it against the vector when it chooses a ring."""
    return -(-4 * (protocol.members - protocol.corrupt_members) // protocol.committee.per_column)


def key_shares(protocol: OneShotParameters) -> dict[str, list[int]]:
    """By ring degree: bytes of one member's share of a key, and of an upload without its vector."""
    task, committee = Floored(8, 1000, 0.0, 16, least=8).task(protocol), protocol.committee
    scheme = protocol.scheme(task)
    rest = sum(protocol.cost(task).up.values()) - scheme.size
    shares = {
        degree: [committee.share_bytes(degree, place) for place in range(committee.members)]
        for degree in kahe_params.MODULUS_BITS
    }
    return {
        str(degree): [sizes[-1], rest + sum(sizes) - sum(shares[scheme.degree])] for degree, sizes in shares.items()
    }


def reference(protocol: AggregationProtocol) -> dict[str, Any]:
    """A session that gives the page the constants of its formulas: ten clients, 1000 coordinates at 16 bits."""
    shown = workload(protocol, (10, 1000, 16), 5, 10)
    task = shown.task(protocol)
    cost, counts = protocol.cost(task), Counts.of(protocol, shown)
    return {
        "clients": shown.clients,
        "coordinates": shown.coordinates,
        "bits": shown.bits,
        "k": counts.k,
        "q": counts.q,
        "input": cost.up[input_round(protocol)],
        "up": sum(cost.up.values()),
        "down": sum(cost.down.values()),
    }


def noise() -> dict[str, Any]:
    """What the page chooses a noise multiplier by: defaults and limits of the encodings of :mod:`dp`."""
    default = DistributedGaussian(1.0, 1.0, 16, clients=LEAST, honest=LEAST - 1, corrupt=1)
    return {
        "delta": default.delta,
        "beta": default.beta,
        "deviations": [default.k_stddevs, *WIDER],
        "widest": default.widest(),
        "narrowest": default.narrowest(),
        "centralBits": CENTRAL_BITS,
    }


def data(rates: dict[str, Any]) -> dict[str, Any]:
    """Everything that the page computes with."""
    table: dict[str, Any] = {}
    for name, protocol in protocols(0.05).items():
        entry: dict[str, Any] = {"reference": reference(protocol)}
        if isinstance(protocol, Encrypted):
            entry["rings"] = rings(protocol)
        elif isinstance(protocol, OneShotParameters):
            entry |= key_rings(protocol)
        table[name] = entry
    return {
        "rates": rates["rates"],
        "noiseSeconds": rates["noise"],
        "measured": {"machine": rates["machine"], "date": rates["date"], "command": rates["command"]},
        "bits": list(BITS),
        "clients": [LEAST, MOST],
        "corruption": CORRUPTION,
        "dropouts": DROPOUTS,
        "sizes": sizes(),
        "graph": {"security": graph.SECURITY, "correctness": graph.CORRECTNESS, "slack": SLACK_BITS},
        "noise": noise(),
        "protocols": table,
    }


def sizes() -> dict[str, int]:
    """Bytes of what grows with neighbours or clients in messages, and how many reports an aggregator hands back."""
    advert = wire.structure_size(messages.Advert(bytes(messages.KEY_BYTES), bytes(messages.KEY_BYTES)))
    return {
        "advert": advert + wire.overhead("", signed=True),
        "commitment": messages.COMMITMENT_BYTES,
        "sealed": messages.SEALED_BYTES,
        "share": messages.SHARE_BYTES,
        "voucher": messages.VOUCHER_BYTES,
        "hash": messages.HASH_BYTES,
        "signature": wire.SIGNATURE_BYTES,
        "unopened": MAX_UNOPENED,
    }


def script(data: dict[str, Any]) -> str:
    """The file that the page loads. It is a script and not JSON, which a page of file:// may not fetch."""
    table = json.dumps(data, separators=(",", ":"))
    return f"// python -m docs.chooser wrote this file.\nwindow.SECAGG_DATA = {table};\n"


def main() -> None:
    """Write the file."""
    DATA.write_text(script(data(read_json(RATES))), encoding="utf-8")


if __name__ == "__main__":
    main()
