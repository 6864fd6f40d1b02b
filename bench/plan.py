"""What a protocol would cost at a scale that fits no machine: rates of a minute ago, times exact counts.

Bytes are exact; seconds are those of one core like this machine's. :func:`checked` holds a plan against a real
session of a size that fits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.measure import Bench
from bench.plots import duration, size
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
_LEAST_SECONDS = 5e-3  # less is not checked: a scheduler's tick is as long

_UNITS = {"bit": 1, "kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}


@dataclass(frozen=True)
class Link:
    """What a client's line carries, bits a second each way."""

    up: float
    down: float

    def seconds(self, up: int, down: int) -> float:
        """To send and to get so many bytes, one after the other."""
        return 8 * up / self.up + 8 * down / self.down


@dataclass(frozen=True)
class Planned:
    """One protocol at one scale. Seconds are core-seconds; ``refused`` says why it can't run."""

    protocol: str
    client_seconds: float = 0.0
    server_seconds: float = 0.0
    other_seconds: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    wire_seconds: float = 0.0
    server_bytes: int = 0
    symbols: str = ""  # the values of those that depend on the protocol
    client_formula: str = ""
    server_formula: str = ""
    other_formula: str = ""
    collusion: str = ""
    post_quantum: bool = False
    others: int = 0
    refused: str = ""

    @property
    def waiting(self) -> float:
        """What a client takes: its computing, and its line."""
        return self.client_seconds + self.wire_seconds


def bandwidth(option: str, text: str) -> float:
    """Bits a second from ``10Mbit``; ``ConfigError`` for anything but a number above 0 and a unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?bit)(?:/s)?", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(
            f"got {option} {text}; expected a number above 0 and any of {', '.join(_UNITS)}, as 10Mbit"
        )
    return float(match[1]) * _UNITS[match[2]]


def plan(
    protocols: Mapping[str, AggregationProtocol], rates: Mapping[str, Rates], workload: Workload, link: Link
) -> list[Planned]:
    """Every protocol at ``workload``; one that can't carry it is there with the reason."""
    found = []
    for name, protocol in protocols.items():
        try:
            found.append(_planned(name, protocol, rates[name], workload, link))
        except ConfigError as reason:
            found.append(Planned(name, refused=str(reason)))
    return found


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
        symbols=", ".join(f"{name} = {getattr(counts, name):,}" for name in ("kqw" if counts.k else "v")),
        client_formula=formulas["client"],
        server_formula=formulas["server"],
        other_formula=formulas.get("other", ""),
        collusion=cost.collusion,
        post_quantum=cost.post_quantum,
        others=sum(protocol.others.values()),
    )


def recommended(planned: Sequence[Planned]) -> list[str]:
    """Which protocol to take, and why: the one that keeps a client the shortest, by whom there is to trust."""
    able = sorted(
        (one for one in planned if not one.refused and one.protocol != "Clear"), key=lambda one: one.waiting
    )
    if not able:
        return ["No protocol that hides anything carries this: see the reasons above."]
    lines = []
    for what, group in (
        ("With a second party that doesn't collude with the server", [one for one in able if one.others]),
        ("With one server and nobody else", [one for one in able if not one.others]),
    ):
        if not group:
            lines.append(f"{what}: none of the protocols carries this.")
            continue
        best, *rest = group
        reason = (
            f"a client is done in {duration(best.waiting)}, {duration(best.wire_seconds)} of it on the wire, and "
            f"the server in {duration(best.server_seconds)} of one core"
        )
        if best.other_seconds is not None:
            reason += f", the other party in {duration(best.other_seconds)}"
        then = f"; next is {rest[0].protocol} with {duration(rest[0].waiting)}" if rest else ""
        trust = f". To learn one client's update would take {best.collusion}"
        lines.append(f"{what}: {best.protocol}, for {reason}{then}{trust}.")
    return [f"Take {able[0].protocol}. {lines[0]}", *lines[1:]] if lines else lines


def plan_grid(planned: Sequence[Planned], workload: Workload, link: Link) -> Grid:
    """A row per protocol, and the formulas below it."""
    columns = (
        "protocol",
        "client",
        "client\nsends",
        "client\ngets",
        "on its\nline",
        "server,\none core",
        "other party,\none core",
        "server's line,\nall clients",
        "formula, of a client and of the server",
    )
    rows = []
    for one in planned:
        if one.refused:
            rows.append((one.protocol, *[""] * 7, f"can't: {one.refused}"))
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
        f"g = {workload.gone:,} silent; lines of {link.up / 1e6:g} Mbit/s up and {link.down / 1e6:g} down. "
        "v: bytes of an encrypted vector, d where nothing is encrypted; k: neighbours; q: signatures that a client "
        "checks; w: words of 32 bits that a masked coordinate takes. Bytes are exact, with "
        "everyone there; line = 8·bytes/bandwidth; seconds are those of one core of this machine, by rates "
        "measured just now.",
        *recommended(planned),
    ]
    return Grid("What it would cost", columns, rows, notes, words=(8,))


@dataclass(frozen=True)
class Checked:
    """A planned figure against the measured one: ``ratio`` is planned over measured."""

    protocol: str
    at: str
    role: str
    planned: float
    measured: float

    @property
    def ratio(self) -> float:
        """1 is a plan that came true."""
        return self.planned / self.measured

    @property
    def holds(self) -> bool:
        """Whether the two are within a quarter, or too short to tell."""
        return max(self.planned, self.measured) < _LEAST_SECONDS or 1 - TOLERANCE <= self.ratio <= 1 + TOLERANCE


def checked(name: str, protocol: AggregationProtocol, rates: Rates, repeats: int = 2) -> list[Checked]:
    """Play sizes to which no rate was fitted, and hold the formulas against them."""
    found = []
    for workload in (replace(one, bits=rates.bits) for one in CHECKED):
        counts = Counts.of(protocol, workload)
        bench = Bench(workload, {name: protocol})
        bench.measure(name)  # the first of a size also builds what the size needs
        bench.forget(name)
        for _ in range(repeats):
            bench.measure(name)
        row = bench.row(name)
        measured = {"client": row.client_cpu, "server": row.server_cpu, "other": row.other_cpu}
        at = f"{workload.clients} x {workload.coordinates:,} at {workload.bits} bits"
        found += [
            Checked(name, at, role, formula.seconds(counts), measured[role] or 0.0)
            for role, formula in rates.formulas.items()
        ]
    return found


def checked_grid(found: Sequence[Checked]) -> Grid:
    """Planned beside measured."""
    rows = [
        (one.protocol, one.at, one.role, duration(one.planned), duration(one.measured), f"{one.ratio:.2f}",
         "holds" if one.holds else "off")
        for one in found
    ]  # fmt: skip
    note = (
        "Core-seconds of sessions of sizes to which no rate was fitted, clients by coordinates. Within "
        f"{TOLERANCE:.0%} holds; what is under five milliseconds isn't told apart."
    )
    columns = ("protocol", "at", "role", "planned", "measured", "ratio", "")
    return Grid("The plan against real sessions", columns, rows, [note])
