"""The command ``plan``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from bench import plan as planning, report
from bench.cluster import CheckedCluster, Cluster, Clustered, Overheads, checked_cluster, cluster, overheads
from bench.cluster_tables import as_checked, checked_cluster_grid, cluster_grid
from bench.options import Bits, Clients, Coordinates, Dropout, Html, Json, Names
from bench.output import check_outputs, command_line, show_grid, shown, write
from bench.rates import Rates, bits_like, calibrate
from bench.workloads import Workload
from secagg.demo.screen import progress
from secagg.errors import ConfigError
from secagg.protocols import chosen
from secagg.protocols.base import AggregationProtocol


class _Measured:
    """What was measured so far: rates, the cost of a worker's result, and the comparisons with real sessions."""

    def __init__(self, workload: Workload, size: Cluster | None) -> None:
        self.workload, self.size = workload, size
        self.rates: dict[str, Rates] = {}
        self.cost: Overheads | None = None
        self.checks: list[planning.Checked] = []
        self.of_cluster: CheckedCluster | None = None

    def run(
        self, protocols: Mapping[str, AggregationProtocol], check: bool, step: Callable[[str, str], None]
    ) -> None:
        """Measure rates, then with ``check`` real sessions."""
        for name, one in protocols.items():
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
    machines: Annotated[int, typer.Option(help="Worker machines beside the server's. 0: no cluster.")] = 0,
    cores: Annotated[int, typer.Option(help="Cores of a worker machine.")] = 16,
    bandwidth: Annotated[str, typer.Option(help="Bandwidth of a worker machine and of the server.")] = "10Gbit",
    check: Annotated[bool, typer.Option("--check", help="Compare the plan with real sessions too.")] = False,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """Predict what each protocol costs at your scale, by rates measured now, and recommend one."""
    protocols = chosen(protocol or [])
    workload = Workload(clients, coordinates, dropout, bits)
    link = planning.Link(planning.bandwidth("--uplink", uplink), planning.bandwidth("--downlink", downlink))
    if machines < 0:
        raise ConfigError(f"got --machines {machines}; expected 0, or the number of worker machines")
    size = Cluster(machines, cores, planning.bandwidth("--bandwidth", bandwidth)) if machines else None
    check_outputs(as_json, as_html)
    measured = _Measured(workload, size)

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

    steps = len(protocols) * (10 + check) + (2 if size else 0)
    with shown(show), progress("bench", steps) as step:
        measured.run(protocols, check, step)
    if measured.off:
        typer.echo("bench: FAILED: the plan is off by more than a quarter", err=True)
        raise typer.Exit(1)
