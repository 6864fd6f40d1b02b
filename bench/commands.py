"""The commands: their options, and what they print and write.

Typer reads each option from a parameter, so a command has as many parameters as options.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import bounded_commands, plan_command, report, sweep_commands
from bench.measure import Bench, in_turn
from bench.options import Bits, Clients, Coordinates, Dropout, Html, Json, Names, Seed
from bench.output import check_outputs, command_line, show_grid, shown, write
from bench.workloads import Workload, check_memory, check_played
from secagg.demo.screen import progress
from secagg.protocols import chosen

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="What secure aggregation costs: protocols compared with each other, with peers, and at your scale.",
)


@app.command()
def run(
    protocol: Names = None,
    clients: Clients = 20,
    coordinates: Coordinates = 100_000,
    dropout: Dropout = 0.1,
    bits: Bits = 16,
    seed: Seed = 0,
    repeats: Annotated[
        int, typer.Option(min=1, max=100, help="Sessions of each protocol. The protocols take turns.")
    ] = 3,
    seconds: Annotated[
        float, typer.Option(min=1, help="Start no pass that would end after this many seconds.")
    ] = 150.0,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """Compare protocols over the same updates, cohort and dropouts, one row each. A wrong sum fails the run."""
    from bench.plots import trade

    protocols = chosen(protocol or [])
    check_played(clients)
    workload = Workload(clients, coordinates, dropout, bits, seed)
    check_memory(workload, protocols)
    check_outputs(as_json, as_html)
    bench = Bench(workload, protocols)

    def show(finished: bool) -> None:
        rows = bench.rows()
        grid = report.run_grid(rows, workload)
        if rows:
            show_grid(grid)
        document = report.document(
            report.Kind.RUN,
            command_line(),
            finished=finished,
            workload=workload,
            rows=rows,
        )
        write(as_json, as_html, document, [grid], lambda: [trade(rows)] if rows else [])

    with shown(show), progress("bench", len(protocols) * (repeats + 1)) as step:
        in_turn(bench, repeats, seconds, step)


@app.command()
def peers(
    peer: Annotated[
        list[str] | None,
        typer.Option("--peer", help="Compare with only this peer. Repeat the option for more. Default: all."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=3, max=100, help="Turns of each comparison.")] = 7,
    seconds: Annotated[
        float, typer.Option(min=1, help="Take fewer turns, at least 3, if a comparison would take longer.")
    ] = 15.0,
    require: Annotated[bool, typer.Option("--require", help="Fail if a peer is missing.")] = False,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """Do the same work with each installed peer and with this library.

    A wrong answer fails the run, and so do more bytes than our documents claim.
    """
    from bench.peer_calls import COMPARISONS
    from bench.peers import Comparing, missed_bytes, parts_grid, peers_grid, selected

    check_outputs(as_json, as_html)
    comparing = Comparing(selected(COMPARISONS, peer or []))

    def show(finished: bool) -> None:
        grids = [peers_grid(comparing.compared, comparing.absent)]
        if any(one.parts for one in comparing.compared):
            grids.append(parts_grid(comparing.compared))
        for grid in grids:
            show_grid(grid)
        document = report.document(
            report.Kind.PEERS,
            command_line(),
            finished=finished,
            compared=comparing.compared,
            absent=comparing.absent,
        )
        write(as_json, as_html, document, grids)

    with shown(show), progress("bench", len(comparing.comparisons)) as step:
        comparing.run(repeats, seconds, step)
    if missed := missed_bytes(comparing.compared):
        typer.echo(f"bench: FAILED: ours sends more bytes than claimed: {'; '.join(missed)}", err=True)
        raise typer.Exit(1)
    if require and comparing.absent:
        typer.echo("bench: FAILED: some peers were not compared; see the notes under the table", err=True)
        raise typer.Exit(1)


for command in (
    sweep_commands.sweep,
    plan_command.plan,
    plan_command.rates,
    bounded_commands.federated,
    bounded_commands.resnet18,
    bounded_commands.ring,
    bounded_commands.oneshot,
    bounded_commands.service,
    bounded_commands.cold,
    bounded_commands.crowd,
    bounded_commands.masks,
):
    app.command()(command)


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="The older result, as --json wrote it.")],
    new: Annotated[Path, typer.Argument(help="The newer result, as --json wrote it.")],
    tolerance: Annotated[float, typer.Option(min=0.0, help="Slowdown that is accepted: 0.25 is a quarter.")] = 0.25,
) -> None:
    """Compare two results of the same command. Exits with 1 if a figure got worse by more than the tolerance."""
    from bench.compare import changes_grid, compared

    before, after = report.read_json(old), report.read_json(new)
    changes = compared(before, after, tolerance)
    show_grid(changes_grid(changes, before["machine"]["processor"], after["machine"]["processor"]))
    if any(change.worse for change in changes):
        raise typer.Exit(1)
