"""The tables of ``bench plan`` about a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from bench.amounts import duration, size
from bench.cluster import CheckedCluster, Cluster, Clustered, Overheads
from bench.plan import Checked
from bench.report import Grid
from bench.workloads import Workload


def cluster_grid(results: Sequence[Clustered], workload: Workload, machines: Cluster, cost: Overheads) -> Grid:
    """A row for each protocol: the server's work on one core and with the cluster, and the bottleneck."""
    columns = (
        "protocol", "server,\none core", "with the\ncluster", "of it\nserial", "inputs", "opening",
        "times as\nfast", "at most", "parts", "pieces",
        "to\nworkers", "from\nworkers", "inbound at\nthat speed", "bottleneck",
    )  # fmt: skip
    rows = []
    for one in results:
        if one.refused:
            rows.append((one.protocol, *[""] * 12, f"cannot run: {one.refused}"))
            continue
        rows.append(
            (
                one.protocol,
                duration(one.alone_seconds),
                duration(one.cluster_seconds),
                duration(one.serial_seconds),
                duration(one.inputs_seconds),
                duration(one.opening_seconds),
                f"{one.alone_seconds / one.cluster_seconds:.1f}" if one.cluster_seconds else "",
                f"{one.most_speedup:,.0f}",
                f"{one.parts:,}",
                f"{one.tasks - one.parts:,}",
                size(one.bytes_to),
                size(one.bytes_from),
                f"{one.inbound / 1e9:.3g} Gbit/s",
                one.bottleneck,
            )
        )
    notes = [
        f"{machines.machines} machines with {machines.cores} cores each and {machines.bandwidth / 1e9:g} Gbit/s, "
        f"and one core of the server; n = {workload.clients:,}, d = {workload.coordinates:,}, g = "
        f"{workload.gone:,}. Workers take and add up the inputs in as many parts as are quickest, and remove "
        "masks, or open OneShot's sum, in pieces, at most 32 at a time. Each part gets the server's saved state, "
        "and returns it with its sum. A result costs the server "
        f"{duration(cost.task_seconds)} and {duration(1e6 * cost.byte_seconds)} a MB, measured with a process of "
        "this machine. A kind of work takes as long as the slowest of its cores, its results and its link. At "
        "most: the speed-up with any number of workers (Amdahl). To workers: states, and keys or the vector that "
        "is opened; the frames of an executor come on top. Inbound at that speed: the bandwidth of all worker "
        "machines together at which inputs arrive as fast as their cores take them.",
    ]
    return Grid("The server with a cluster", columns, rows, notes, words=(13,))


def checked_cluster_grid(check: CheckedCluster, holds: bool) -> Grid:
    """A table of the planned and the measured last round with worker processes."""
    columns = ("at", "processes", "one worker", "planned", "measured", "ratio", "pieces, planned", "measured", "")
    row = (
        check.at,
        str(check.processes),
        duration(check.one_seconds),
        duration(check.planned),
        duration(check.measured),
        f"{check.planned / check.measured:.2f}",
        f"{check.planned_tasks:,}",
        f"{check.tasks:,}",
        "holds" if holds else "off",
    )
    note = (
        "Seconds on the clock of the server's last round in SecAgg, in one thread and with worker processes of "
        "this machine, which the server helps while it waits. The plan divides the masks of the first among the "
        "cores."
    )
    return Grid("The plan of a cluster and worker processes", columns, [row], [note])


def as_checked(check: CheckedCluster) -> Checked:
    """The seconds as a figure of the plan's own check."""
    return Checked("SecAgg", check.at, f"server, {check.processes} processes", check.planned, check.measured)
