"""The command ``plan``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import plan as planning, report
from bench.cluster import CheckedCluster, Cluster, Clustered, Overheads, checked_cluster, cluster, overheads
from bench.cluster_tables import as_checked, checked_cluster_grid, cluster_grid
from bench.noise_rates import noise_seconds
from bench.options import Bits, Clients, Coordinates, Dropout, Html, Json, Names
from bench.output import check_outputs, command_line, show_grid, shown, write
from bench.rates import Rates, bits_like, calibrate
from bench.saved_rates import SavedRates, chosen_rates, load, measure, to_plain
from bench.workloads import Floored, Workload
from secagg.demo.screen import progress
from secagg.errors import ConfigError
from secagg.protocols import chosen
from secagg.protocols.base import AggregationProtocol


class _Measured:
    """What was measured so far: rates, the cost of a worker's result, and the comparisons with real sessions.

    ``saved`` are rates of an earlier measurement, which are then taken as they are.
    """

    def __init__(self, workload: Workload, size: Cluster | None, saved: SavedRates | None) -> None:
        self.workload, self.size, self.saved = workload, size, saved
        self.rates: dict[str, Rates] = {}
        self.cost: Overheads | None = None
        self.checks: list[planning.Checked] = []
        self.of_cluster: CheckedCluster | None = None

    def run(
        self, protocols: Mapping[str, AggregationProtocol], check: bool, step: Callable[[str, str], None]
    ) -> None:
        """Measure rates, then with ``check`` real sessions."""
        if self.saved is not None:
            self.rates = chosen_rates(self.saved, protocols, self.workload)
        for name, one in protocols.items() if self.saved is None else ():
            self.rates[name] = calibrate(name, one, bits_like(one, self.workload), step)
        if self.size is not None:
            step("cluster", "a worker process")
            self.cost = overheads()
        for name, one in protocols.items() if check else ():
            step(name, "real sessions")
            self.checks.extend(planning.checked(name, one, self.rates[name]))
        if self.cost is not None and check:
            self.of_cluster = checked_cluster(step, self.cost)

    def clustered(self, protocols: Mapping[str, AggregationProtocol]) -> list[Clustered]:
        """The server with the cluster, if there is one and its costs were measured."""
        if self.size is None or self.cost is None:
            return []
        return cluster(protocols, self.rates, self.workload, self.size, self.cost)

    @property
    def off(self) -> bool:
        """Whether a figure is off by more than the plan's tolerance, or the pieces were counted wrong."""
        return any(not one.holds for one in self.checks) or not self.cluster_holds

    @property
    def cluster_holds(self) -> bool:
        """Whether the last round on worker processes took what the plan says."""
        one = self.of_cluster
        return one is None or (as_checked(one).holds and one.tasks == one.planned_tasks)

    def grids(self, protocols: Mapping[str, AggregationProtocol]) -> list[report.Grid]:
        """The tables beside the plan's first one."""
        grids = []
        if self.size is not None and self.cost is not None:
            grids.append(cluster_grid(self.clustered(protocols), self.workload, self.size, self.cost))
        if self.checks:
            grids.append(planning.checked_grid(self.checks))
        if self.of_cluster is not None:
            grids.append(checked_cluster_grid(self.of_cluster, self.cluster_holds))
        return grids

    def results(self, protocols: Mapping[str, AggregationProtocol]) -> dict[str, Any]:
        """The entries of the document beside the plan's own."""
        checked = [{**report.plain(one), "ratio": one.ratio, "holds": one.holds} for one in self.checks]
        if self.size is None:
            return {"checked": checked}
        clustered = [
            {**report.plain(one), "cluster_seconds": one.cluster_seconds} for one in self.clustered(protocols)
        ]
        return {
            "checked": checked,
            "cluster": self.size,
            "overheads": self.cost,
            "clustered": clustered,
            "checked_cluster": self.of_cluster,
        }


def plan(
    clients: Clients,
    coordinates: Coordinates,
    uplink: Annotated[str, typer.Option(help="Upload bandwidth of a client, such as 10Mbit.")] = "10Mbit",
    downlink: Annotated[str, typer.Option(help="Download bandwidth of a client.")] = "50Mbit",
    protocol: Names = None,
    dropout: Dropout = 0.1,
    bits: Bits = 16,
    min_survivors: Annotated[
        int | None,
        typer.Option(help="Least clients whose sum is opened. Default: what SecAgg needs if a third is corrupt."),
    ] = None,
    machines: Annotated[int, typer.Option(help="Worker machines beside the server's. 0: no cluster.")] = 0,
    cores: Annotated[int, typer.Option(help="Cores of a worker machine.")] = 16,
    bandwidth: Annotated[str, typer.Option(help="Bandwidth of a worker machine and of the server.")] = "10Gbit",
    rates: Annotated[
        Path | None, typer.Option(help="Take the rates of this file of the command rates; measure nothing.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Compare the plan with real sessions too.")] = False,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """Predict what each protocol costs at your scale, by rates measured now or before, and recommend one."""
    protocols = chosen(protocol or [])
    workload = (
        Workload(clients, coordinates, dropout, bits)
        if min_survivors is None
        else Floored(clients, coordinates, dropout, bits, least=min_survivors)
    )
    link = planning.Link(planning.bandwidth("--uplink", uplink), planning.bandwidth("--downlink", downlink))
    if machines < 0:
        raise ConfigError(f"got --machines {machines}; expected 0, or the number of worker machines")
    size = Cluster(machines, cores, planning.bandwidth("--bandwidth", bandwidth)) if machines else None
    check_outputs(as_json, as_html)
    measured = _Measured(workload, size, load(rates) if rates else None)

    def show(finished: bool) -> None:
        ready = {name: protocols[name] for name in measured.rates}
        planned = planning.plan(ready, measured.rates, workload, link)
        grids = [planning.plan_grid(planned, workload, link), *measured.grids(ready)]
        for grid in grids:
            show_grid(grid)
        document = report.document(
            report.Kind.PLAN,
            command_line(),
            finished=finished,
            workload=workload,
            link=link,
            planned=planned,
            recommended=planning.recommended(planned),
            **measured.results(ready),
        )
        write(as_json, as_html, document, grids)

    steps = len(protocols) * (10 * (rates is None) + check) + (2 if size else 0)
    with shown(show), progress("bench", steps) as step:
        measured.run(protocols, check, step)
    if measured.off:
        typer.echo("bench: FAILED: the plan is off by more than a quarter", err=True)
        raise typer.Exit(1)


def rates(protocol: Names = None, as_json: Json = None) -> None:
    """Measure this machine's rates of every protocol, which plan --rates reads, and what noise adds."""
    check_outputs(as_json, None)
    protocols = chosen(protocol or [])
    with progress("bench", 20 * len(protocols)) as step:
        saved = measure(protocols, step)
    for name, lanes in saved.items():
        for one in lanes:
            for role, formula in one.formulas.items():
                typer.echo(f"{name}, {one.bits} bits, {role}: {formula}")
    today = datetime.now(UTC).date().isoformat()
    noise = noise_seconds()
    document = report.document(
        report.Kind.RATES, command_line(), finished=True, date=today, rates=to_plain(saved), noise=noise
    )
    for kind, added in noise.items():
        typer.echo(f"{kind} noise: " + ", ".join(f"{role} {1e9 * each:.3g} ns·d" for role, each in added.items()))
    write(as_json, None, document, [])
