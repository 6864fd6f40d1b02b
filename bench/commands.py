"""The commands: what they take, and what they print and write."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import report
from bench.measure import Bench, in_turn
from bench.sweep import HELD, Over, Sweeping, points_of, workload_at
from bench.workloads import Workload, check_memory, check_played
from secagg.demo.screen import progress, tables
from secagg.errors import ConfigError
from secagg.protocols import chosen

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="What secure aggregation costs: protocols beside each other, beside their peers, and at your scale.",
)

Names = Annotated[
    list[str] | None, typer.Option("--protocol", help="This protocol only; repeat for more. By default all.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result here, for compare and for machines.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write one page that needs nothing beside itself.")]
Clients = Annotated[int, typer.Option("--clients", help="How many take part.")]
Coordinates = Annotated[int, typer.Option("--coordinates", help="Numbers in an update.")]
Dropout = Annotated[float, typer.Option(help="The share that falls silent just before its input.")]
Bits = Annotated[int, typer.Option(help="Bits a value is quantized to.")]
Seed = Annotated[int, typer.Option(help="Draws the updates; never a key or a mask.")]

INTERRUPTED = 130


def command_line() -> str:
    """What was typed, as it can be typed again."""
    return shlex.join(["python", "-m", "bench", *sys.argv[1:]])


@app.command()
def run(
    protocol: Names = None,
    clients: Clients = 20,
    coordinates: Coordinates = 100_000,
    dropout: Dropout = 0.1,
    bits: Bits = 16,
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Sessions of each protocol, in turn.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Begin no pass that would end later.")] = 150.0,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """A table: a row per protocol, over the same updates, cohort and dropouts. A wrong sum fails the run."""
    from bench.plots import trade

    protocols = chosen(protocol or [])
    check_played(clients)
    workload = Workload(clients, coordinates, dropout, bits, seed)
    check_memory(workload, protocols)
    _check_outputs(as_json, as_html)
    bench = Bench(workload, protocols)

    def show(finished: bool) -> None:
        rows = bench.rows()
        grid = report.run_grid(rows, workload)
        if rows:
            show_grid(grid)
        found = report.document(
            report.Kind.RUN,
            command_line(),
            finished=finished,
            workload=workload,
            rows=[*map(report.as_plain_row, rows)],
        )
        _write(as_json, as_html, found, [grid], lambda: [trade(rows)] if rows else [])

    with _shown(show), progress("bench", len(protocols) * (repeats + 1)) as step:
        in_turn(bench, repeats, seconds, step)


@app.command()
def sweep(
    over: Annotated[Over, typer.Option(help="What is varied.")],
    protocol: Names = None,
    points: Annotated[str | None, typer.Option(help="Where: numbers with commas between, as 8,16,32.")] = None,
    clients: Annotated[int | None, typer.Option(help="Held, where something else is varied.")] = None,
    coordinates: Annotated[int | None, typer.Option(help="Held, where something else is varied.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Held, where something else is varied.")] = None,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Sessions at each point, in turn.")] = 1,
    most_seconds: Annotated[float, typer.Option(min=0.1, help="Leave a point out that would take longer.")] = 40.0,
    out: Annotated[
        Path, typer.Option(help="The picture: a name in .png, .svg or .pdf; without one, a .png and a .svg.")
    ] = Path("sweep"),
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """Growth curves with fitted powers and peak memory by party, as pictures."""
    from bench.plots import growth, pictures, save

    protocols = chosen(protocol or [])
    held = HELD[over]
    given = {"clients": clients, "coordinates": coordinates, "dropout": dropout}
    for name, value in given.items():
        if value is not None and name != over:
            held = workload_at(Over(name), held, value)
    _check_outputs(as_json, as_html)
    for picture in pictures(out):
        report.check_writable("--out", picture)
    sweeping = Sweeping(over, held, points_of(over, points), protocols)

    def show(finished: bool) -> None:
        result = sweeping.result()
        grid = report.sweep_grid(result)
        found = report.document(
            report.Kind.SWEEP,
            command_line(),
            finished=finished,
            over=over,
            held=held,
            points=result.points,
            left_out=result.left_out,
            powers=report.powers(result),
        )
        if result.points:
            show_grid(grid)
            for path in save(growth(result), out):
                typer.echo(f"Picture: {path}")
        _write(as_json, as_html, found, [grid], lambda: [growth(result)] if result.points else [])

    with _shown(show), progress("bench", len(sweeping.workloads) * len(protocols) * (repeats + 2)) as step:
        sweeping.run(repeats, most_seconds, step)


@app.command()
def peers(
    peer: Annotated[
        list[str] | None, typer.Option("--peer", help="This peer only; repeat for more. By default all.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=3, max=100, help="Turns of each comparison.")] = 7,
    seconds: Annotated[float, typer.Option(min=1, help="Fewer turns, at least 3, where they take longer.")] = 15.0,
    require: Annotated[bool, typer.Option("--require", help="Fail where a peer is missing.")] = False,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """The same work through each peer that is installed, and through ours. A wrong answer fails the run."""
    from bench.peer_calls import COMPARISONS
    from bench.peers import Comparing, peers_grid, selected

    _check_outputs(as_json, as_html)
    comparing = Comparing(selected(COMPARISONS, peer or []))

    def show(finished: bool) -> None:
        grid = peers_grid(comparing.compared, comparing.absent)
        show_grid(grid)
        found = report.document(
            report.Kind.PEERS,
            command_line(),
            finished=finished,
            compared=comparing.compared,
            absent=comparing.absent,
        )
        _write(as_json, as_html, found, [grid])

    with _shown(show), progress("bench", len(comparing.comparisons)) as step:
        comparing.run(repeats, seconds, step)
    if require and comparing.absent:
        typer.echo("bench: FAILED: not all peers could be compared with", err=True)
        raise typer.Exit(1)


@app.command()
def plan(
    clients: Clients,
    coordinates: Coordinates,
    uplink: Annotated[str, typer.Option(help="A client's line, as 10Mbit.")] = "10Mbit",
    downlink: Annotated[str, typer.Option(help="The same, the other way.")] = "50Mbit",
    protocol: Names = None,
    dropout: Dropout = 0.1,
    bits: Bits = 16,
    check: Annotated[bool, typer.Option("--check", help="Hold the plan against real sessions too.")] = False,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """What each protocol would cost at your scale, by rates measured now, and which to take."""
    from bench import plan as planning
    from bench.rates import Rates, bits_like, calibrate

    protocols = chosen(protocol or [])
    workload = Workload(clients, coordinates, dropout, bits)
    link = planning.Link(planning.bandwidth("--uplink", uplink), planning.bandwidth("--downlink", downlink))
    _check_outputs(as_json, as_html)
    rates: dict[str, Rates] = {}
    found: list[planning.Checked] = []

    def show(finished: bool) -> None:
        planned = planning.plan({name: protocols[name] for name in rates}, rates, workload, link)
        grids = [planning.plan_grid(planned, workload, link)]
        grids += [planning.checked_grid(found)] if found else []
        for grid in grids:
            show_grid(grid)
        result = report.document(
            report.Kind.PLAN,
            command_line(),
            finished=finished,
            workload=workload,
            link=link,
            planned=planned,
            recommended=planning.recommended(planned),
            checked=[{**report.plain(one), "ratio": one.ratio, "holds": one.holds} for one in found],
        )
        _write(as_json, as_html, result, grids)

    with _shown(show), progress("bench", len(protocols) * (10 + check)) as step:
        for name, one in protocols.items():
            rates[name] = calibrate(name, one, bits_like(one, workload), step)
        for name, one in protocols.items() if check else ():
            step(name, "real sessions")
            found.extend(planning.checked(name, one, rates[name]))
    if any(not one.holds for one in found):
        typer.echo("bench: FAILED: the plan is off by more than a quarter", err=True)
        raise typer.Exit(1)


@app.command()
def compare(
    old: Annotated[Path, typer.Argument(help="What --json wrote before.")],
    new: Annotated[Path, typer.Argument(help="What --json wrote after.")],
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="How much slower is still the same: 0.25 is a quarter.")
    ] = 0.25,
) -> None:
    """Hold a result against an older one of the same command; exits 1 if a figure got worse past the tolerance."""
    from bench.compare import changes_grid, compared

    before, after = report.read_json(old), report.read_json(new)
    changes = compared(before, after, tolerance)
    show_grid(changes_grid(changes, before["machine"]["processor"], after["machine"]["processor"]))
    if any(change.worse for change in changes):
        raise typer.Exit(1)


def show_grid(grid: report.Grid) -> None:
    """Print to stdout; as wide as the table where neither a terminal nor COLUMNS says how wide it is."""
    console = tables(report.WIDTH)
    console.print(report.to_table(grid, console.width))


@contextmanager
def _shown(show: Callable[[bool], None]) -> Iterator[None]:
    """Show what there is at the end, and so too after Ctrl-C, a wrong sum or whatever else."""
    try:
        yield
    except KeyboardInterrupt:
        show(False)
        typer.echo("bench: interrupted; the above is what was measured by then", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception:
        show(False)
        raise
    show(True)


def _write(
    as_json: Path | None,
    as_html: Path | None,
    found: Mapping[str, Any],
    grids: Sequence[report.Grid],
    draw: Callable[[], Sequence[Any]] = tuple,
) -> None:
    """Write what was asked for; ``draw`` makes the page's pictures."""
    if as_json:
        report.write_json(as_json, found)
    if as_html:
        from bench.plots import to_svg

        report.write(as_html, report.to_page(found, grids, [to_svg(figure) for figure in draw()]))


def _check_outputs(as_json: Path | None, as_html: Path | None) -> None:
    report.check_writable("--json", as_json)
    report.check_writable("--html", as_html)
    if as_json and as_html and as_json.resolve() == as_html.resolve():
        raise ConfigError(f"got {as_json} for both of --json and --html; expected two files")
