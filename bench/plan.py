"""Predicts what a protocol costs at a scale that fits no machine: rates measured now, times exact counts.

Bytes are exact. Seconds are those of one core of this machine. :func:`checked` compares predictions with real
sessions of sizes that fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.amounts import duration, size
from bench.measure import Bench
from bench.rates import Counts, Rates
from bench.report import Grid
from bench.workloads import Workload
from secagg.errors import ConfigError
from secagg.protocols.base import AggregationProtocol

TOLERANCE = 0.25
CHECKED = (
    Workload(clients=20, coordinates=100_000, dropout=0.1),
    Workload(clients=200, coordinates=4000, dropout=0.1),  # where neighbours and signatures weigh more
)
_LEAST_SECONDS = 5e-3  # shorter times are not checked: a tick of the scheduler is as long

_UNITS = {"bit": 1, "kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}


@dataclass(frozen=True)
class Link:
    """The bandwidth of a client, in bits a second each way."""

    up: float
    down: float

    def seconds(self, up: int, down: int) -> float:
        """Seconds to send ``up`` bytes and then receive ``down`` bytes."""
        return 8 * up / self.up + 8 * down / self.down


@dataclass(frozen=True)
class Planned:
    """One protocol at one scale. Seconds are core-seconds. ``refused`` says why it cannot run; empty if it can."""

    protocol: str
    client_seconds: float = 0.0
    server_seconds: float = 0.0
    other_seconds: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    wire_seconds: float = 0.0
    server_bytes: int = 0
    symbols: str = ""  # values of the symbols that depend on the protocol
    client_formula: str = ""
    server_formula: str = ""
    other_formula: str = ""
    collusion: str = ""
    post_quantum: bool = False
    others: int = 0
    refused: str = ""

    @property
    def waiting(self) -> float:
        """Seconds that a session occupies a client: computing, and transfer."""
        return self.client_seconds + self.wire_seconds


def bandwidth(option: str, text: str) -> float:
    """Bits a second of a text such as ``10Mbit``. ``ConfigError`` unless it is a number above 0 and a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?bit)(?:/s)?", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(
            f"got {option} {text}; expected a number above 0 and one of {', '.join(_UNITS)}, such as 10Mbit"
        )
    return float(match[1]) * _UNITS[match[2]]


def plan(
    protocols: Mapping[str, AggregationProtocol], rates: Mapping[str, Rates], workload: Workload, link: Link
) -> list[Planned]:
    """Plan every protocol at ``workload``. For a protocol that cannot run it, the plan holds the reason."""
    planned = []
    for name, protocol in protocols.items():
        try:
            planned.append(_planned(name, protocol, rates[name], workload, link))
        except ConfigError as reason:
            planned.append(Planned(name, refused=str(reason)))
    return planned


def _planned(name: str, protocol: AggregationProtocol, rates: Rates, workload: Workload, link: Link) -> Planned:
    task, counts = workload.task(protocol), Counts.of(protocol, workload)
    cost = protocol.cost(task)
    up, down = sum(cost.up.values()), sum(cost.down.values())
    seconds = {role: formula.seconds(counts) for role, formula in rates.formulas.items()}
    formulas = {role: str(formula) for role, formula in rates.formulas.items()}
    return Planned(
        protocol=name,
        client_seconds=seconds["client"],
        server_seconds=seconds["server"],
        other_seconds=seconds.get("other"),
        bytes_up=up,
        bytes_down=down,
        wire_seconds=link.seconds(up, down),
        server_bytes=workload.clients * (up + down),
        symbols=", ".join(f"{name} = {getattr(counts, name):,}" for name in _symbols(counts)),
        client_formula=formulas["client"],
        server_formula=formulas["server"],
        other_formula=formulas.get("other", ""),
        collusion=cost.collusion,
        post_quantum=cost.post_quantum,
        others=sum(protocol.party_counts.values()),
    )


def _symbols(counts: Counts) -> str:
    """The symbols that depend on the protocol."""
    if counts.k:
        return "kqw"
    return "vs" if counts.s else "v"


def recommended(planned: Sequence[Planned]) -> list[str]:
    """Sentences that recommend a protocol: the one that occupies a client for the shortest time.

    The first sentence is about all protocols; there is one for each kind of trust.
    """
    able = sorted(
        (one for one in planned if not one.refused and one.protocol != "Clear"), key=lambda one: one.waiting
    )
    if not able:
        return ["No protocol that hides updates can run this: see the reasons in the table."]
    lines = []
    for what, group in (
        ("With a second party that does not collude with the server", [one for one in able if one.others]),
        ("With one server and nobody else", [one for one in able if not one.others]),
    ):
        if not group:
            lines.append(f"{what}: no protocol can run this.")
            continue
        best, *rest = group
        reason = (
            f"a client is busy for {duration(best.waiting)}, of which {duration(best.wire_seconds)} are transfer, "
            f"and the server for {duration(best.server_seconds)} of one core"
        )
        if best.other_seconds is not None:
            reason += f", the other party in {duration(best.other_seconds)}"
        then = f". The next best is {rest[0].protocol}, with {duration(rest[0].waiting)}" if rest else ""
        trust = f". Who could learn one client's update together: {best.collusion}"
        lines.append(f"{what}: {best.protocol}. There {reason}{then}{trust}.")
    return [f"Take {able[0].protocol}. {lines[0]}", *lines[1:]]


def plan_grid(planned: Sequence[Planned], workload: Workload, link: Link) -> Grid:
    """A table with a row per protocol, its formulas, and the recommendation below."""
    columns = (
        "protocol",
        "client",
        "client\nsends",
        "client\nreceives",
        "transfer",
        "server,\none core",
        "other party,\none core",
        "all clients'\nbytes",
        "formula, of a client and of the server",
    )
    rows = []
    for one in planned:
        if one.refused:
            rows.append((one.protocol, *[""] * 7, f"cannot run: {one.refused}"))
            continue
        formulas = [f"client {one.client_formula}", f"server {one.server_formula}"]
        formulas += [f"other {one.other_formula}"] if one.other_formula else []
        formulas += [one.symbols]
        rows.append(
            (
                one.protocol,
                duration(one.client_seconds),
                size(one.bytes_up),
                size(one.bytes_down),
                duration(one.wire_seconds),
                duration(one.server_seconds),
                "" if one.other_seconds is None else duration(one.other_seconds),
                size(one.server_bytes),
                "\n".join(formulas),
            )
        )
    notes = [
        f"n = {workload.clients:,} clients, d = {workload.coordinates:,} coordinates at {workload.bits} bits, "
        f"g = {workload.gone:,} silent clients; {link.up / 1e6:g} Mbit/s up and {link.down / 1e6:g} Mbit/s down. "
        "v: bytes of an encrypted vector, or d if nothing is encrypted; k: neighbours of a client; q: signatures "
        "that a client checks; w: words of 32 bits in a masked coordinate; s: bytes of a member's share of a "
        "client's key. Bytes are exact, for a session in which "
        "nobody is silent. Transfer = 8·bytes/bandwidth. Seconds are for one core of the machine whose rates were "
        "measured: this one, unless --rates names a file of another.",
        *recommended(planned),
    ]
    return Grid("Predicted cost", columns, rows, notes, words=(8,))


@dataclass(frozen=True)
class Checked:
    """A planned figure and the measured one, in core-seconds."""

    protocol: str
    at: str
    role: str
    planned: float
    measured: float

    @property
    def ratio(self) -> float:
        """Planned divided by measured."""
        return self.planned / self.measured

    @property
    def holds(self) -> bool:
        """Whether the plan is within a quarter of the measurement, or both are too short to tell."""
        return max(self.planned, self.measured) < _LEAST_SECONDS or 1 - TOLERANCE <= self.ratio <= 1 + TOLERANCE


def checked(name: str, protocol: AggregationProtocol, rates: Rates, repeats: int = 2) -> list[Checked]:
    """Play sessions of sizes to which no rate was fitted, and compare the formulas with them."""
    checks = []
    for workload in (replace(one, bits=rates.bits) for one in CHECKED):
        counts = Counts.of(protocol, workload)
        bench = Bench(workload, {name: protocol})
        bench.measure(name)  # the first session of a size builds tables that later ones reuse
        bench.forget(name)
        for _ in range(repeats):
            bench.measure(name)
        row = bench.row(name)
        measured = {"client": row.client_cpu, "server": row.server_cpu, "other": row.other_cpu}
        at = f"{workload.clients} x {workload.coordinates:,} at {workload.bits} bits"
        checks += [
            Checked(name, at, role, formula.seconds(counts), measured[role] or 0.0)
            for role, formula in rates.formulas.items()
        ]
    return checks


def checked_grid(checks: Sequence[Checked]) -> Grid:
    """A table of planned and measured figures."""
    rows = [
        (one.protocol, one.at, one.role, duration(one.planned), duration(one.measured), f"{one.ratio:.2f}",
         "holds" if one.holds else "off")
        for one in checks
    ]  # fmt: skip
    note = (
        "Core-seconds of sessions of sizes to which no rate was fitted, clients by coordinates. A plan holds "
        f"within {TOLERANCE:.0%}; figures under five milliseconds are not checked."
    )
    columns = ("protocol", "at", "role", "planned", "measured", "ratio", "")
    return Grid("The plan and real sessions", columns, rows, [note])
