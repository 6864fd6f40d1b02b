"""Writes what docs/pages/choose.html computes with: ``python -m docs.chooser``.

The page repeats ``python -m bench plan`` in a browser. This module writes its numbers: the measured rates of
bench/results/rates.json; for each protocol the bytes of one session, from which the page computes the constants
of its formulas; and, where a number is a step function without a short formula (the rings of ciphertexts, the
neighbours on a sparse graph), the places of the steps. Neighbours are exact at the places in the table, and the
page interpolates between them. tests/test_chooser.py compares the page with the plan, and states how far they may
differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.rates import Counts
from bench.report import read_json
from bench.workloads import Floored
from he import kahe_params
from secagg import BFV, CKKS, AdditiveShares, Clear, ConfigError, OneShot, Paillier, SecAgg, SecAggPlus, wire
from secagg.beacon import SignedBeacon
from secagg.corruption import corrupt_count
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
BITS = (8, 12, 16, 20, 24)
CORRUPTION = (0, 5, 10, 20, 33)  # per cent of the clients that may help the server
DROPOUTS = (0, 5, 10, 20, 30)  # per cent of the clients that are expected to fall silent
FEW = 100  # clients up to which all neighbours are in the table
STEP = 0.03  # neighbours between two places of the table are within this of the interpolated number
_LENGTHS = (1000, 10**5, 10**6, 10**8)  # vectors whose rings are all that OneShot takes, but for a few bytes

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


def workload(
    protocol: AggregationProtocol, clients: int, coordinates: int, bits: int, percent: int, dropout: int
) -> Floored:
    """The workload that the page shows for ``protocol``. ``ConfigError`` if too few clients remain."""
    floor = min_survivors(protocol, clients, percent, dropout)
    return Floored(clients, coordinates, dropout / 100, bits, least=floor)


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


def rings(protocol: Encrypted) -> list[list[list[Any]]]:
    """For each of ``BITS``, rows [clients from which, slots, bytes of a ciphertext, of the head, of the key].

    A row of None after the clients says that no ring carries so many.
    """
    frame = wire.overhead("decryptor-1", signed=True)

    def ring(bits: int, clients: int) -> tuple[int, int, int, int] | None:
        try:
            scheme = protocol.scheme(Floored(clients, 1, 0.0, bits, least=clients).task(protocol))
        except ConfigError:
            return None
        slots: Any = getattr(scheme, "slots", None)
        count = slots if isinstance(slots, int) else slots.count
        each = scheme.size(count + 1) - scheme.size(count)
        shown = wire.structure_size(SessionKey(bytes(32 if protocol.shared_key else scheme.public_size)))
        return count, each, scheme.size(1) - each, wire.string_size(frame + shown)

    return [[[n, *(row or [None])] for n, row in steps(partial(ring, bits), LEAST, MOST)] for bits in BITS]


def key_rings(protocol: OneShotParameters) -> list[list[list[Any]]]:
    """For each of ``BITS``, rows [clients from which, [ring, ...]] of OneShot; a ring is a row of ``_ring``."""
    shares = _key_bytes(protocol)

    def sought(bits: int, clients: int) -> list[list[int]]:
        bound = (1 << bits) - 2
        # Beside the vector travels the number of its coordinates that were clipped.
        rings = {_ring(kahe_params.choose(((d, bound), (1, d)), clients, shares)) for d in _LENGTHS}
        return [list(ring) for ring in sorted(rings)]

    rows = []
    for bits in BITS:
        # Rings change where the sum or the error of all clients takes one bit more.
        bound = (1 << bits) - 2
        ends = {-(-(1 << width) // bound) for width in range(bits, 62)}
        ends |= {n for n, _ in steps(lambda n: kahe_params.error_bound(n).bit_length(), LEAST, MOST)}
        starts = sorted({LEAST} | {n for n in ends if LEAST < n <= MOST})
        changes = [(n, sought(bits, n)) for n in starts]
        rows.append([[n, rings] for i, (n, rings) in enumerate(changes) if i == 0 or rings != changes[i - 1][1]])
    return rows


def _key_bytes(protocol: OneShotParameters) -> int:
    """What a coefficient of a key costs in shares. OneShot weighs it against the vector when it chooses a ring."""
    return -(-4 * (protocol.members - protocol.corrupt_members) // protocol.committee.per_column)


def _ring(chosen: kahe_params.Parameters) -> tuple[int, ...]:
    """Degree, values in a coefficient, coefficients that stay empty, bits of the error, and of each prime."""
    return chosen.degree, chosen.planes[0].per_coefficient, chosen.guards, chosen.shift, *chosen.bits


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


def degrees(protocol: Pairwise, percent: int, dropout: int) -> dict[str, list[list[int]]]:
    """Rows [clients, neighbours] of the sparse graph; 0: no sparse graph is safe, and all are neighbours.

    ``few`` has all steps up to ``FEW`` clients. ``many`` has rows so close that the page may interpolate between
    them. They begin at the least cohort above ``FEW`` that has a sparse graph.
    """

    def degree(clients: int) -> int:
        c, floor = corrupt(percent, clients), min_survivors(protocol, clients, percent, dropout)
        task: Any = _Floor(floor)  # the shape of a graph depends on no other field of the task
        shape = protocol.shape(task, clients, c)
        return 0 if shape.complete else shape.degree

    every = [(n, degree(n)) for n in range(LEAST, FEW + 1)]
    few = [[n, k] for i, (n, k) in enumerate(every) if i == 0 or k != every[i - 1][1]]
    if not degree(MOST):
        return {"few": few, "many": []}
    first = FEW if every[-1][1] else steps(lambda n: degree(n) > 0, FEW, MOST)[-1][0]
    rows = {n: degree(n) for n in (first, MOST)}

    def refine(low: int, high: int) -> None:
        middle = round((low * high) ** 0.5)
        if high < 1.05 * low or high - low < 2:
            return
        rows[middle] = degree(middle)
        share = math.log(middle / low) / math.log(high / low)
        between = rows[low] + (rows[high] - rows[low]) * share
        if high > 2 * low or abs(between - rows[middle]) > STEP * rows[middle]:
            refine(low, middle)
            refine(middle, high)

    refine(first, MOST)
    return {"few": few, "many": [[n, k] for n, k in sorted(rows.items()) if k]}


class _Floor:
    """The one field of a task that a graph depends on."""

    def __init__(self, min_survivors: int) -> None:
        self.min_survivors = min_survivors


def reference(protocol: AggregationProtocol) -> dict[str, Any]:
    """A session that gives the page the constants of its formulas: ten clients, 1000 coordinates at 16 bits."""
    shown = workload(protocol, 10, 1000, 16, 5, 10)
    task = shown.task(protocol)
    cost, counts = protocol.cost(task), Counts.of(protocol, shown)
    upload = cost.up[input_round(protocol)]
    up, down = sum(cost.up.values()), sum(cost.down.values())
    return {
        "n": counts.n,
        "d": counts.d,
        "bits": 16,
        "k": counts.k,
        "q": counts.q,
        "input": upload,
        "up": up,
        "down": down,
    }


def data(rates: dict[str, Any]) -> dict[str, Any]:
    """Everything that the page computes with."""
    table: dict[str, Any] = {}
    for name, protocol in protocols(0.05).items():
        entry: dict[str, Any] = {"reference": reference(protocol)}
        if isinstance(protocol, Encrypted):
            entry["rings"] = rings(protocol)
        elif isinstance(protocol, OneShotParameters):
            entry |= {"rings": key_rings(protocol), "shares": key_shares(protocol), "each": _key_bytes(protocol)}
            entry["limits"] = {str(degree): bits for degree, bits in kahe_params.MODULUS_BITS.items()}
        table[name] = entry
    for percent in CORRUPTION:
        for name, protocol in protocols(percent / 100).items():
            if isinstance(protocol, SecAggPlus):
                by_dropout = {str(dropout): degrees(protocol, percent, dropout) for dropout in DROPOUTS}
                table[name].setdefault("degrees", {})[str(percent)] = by_dropout
    return {
        "rates": rates["rates"],
        "measured": {"machine": rates["machine"], "date": rates["date"], "command": rates["command"]},
        "bits": BITS,
        "clients": [LEAST, MOST],
        "few": FEW,
        "corruption": CORRUPTION,
        "dropouts": DROPOUTS,
        "sizes": sizes(),
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
