"""The command ``sweep``: one quantity varies, or every combination of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench import report, scale
from bench.options import Html, Json, Names, Picture, Points
from bench.output import check_outputs, command_line, show_grid, shown, write
from bench.sweep import HELD, Over, Sweeping, points_of, workload_at
from bench.workers import check_workers
from bench.workloads import Workload
from secagg.demo.screen import progress
from secagg.errors import ConfigError
from secagg.protocols import chosen

QUICK_SECONDS, LONG_SECONDS = 40.0, 900.0


def sweep(
    over: Annotated[
        Over | None, typer.Option(help="The quantity to vary. Default: every combination of several values of all.")
    ] = None,
    protocol: Names = None,
    points: Points = None,
    clients: Annotated[
        str | None, typer.Option(help="Numbers of clients, such as 100,1000. With --over another quantity: one.")
    ] = None,
    coordinates: Annotated[
        str | None, typer.Option(help="Numbers of values in an update. With --over another quantity: one.")
    ] = None,
    dropout: Annotated[
        str | None, typer.Option(help="Shares of silent clients, such as 0,0.1. With --over another quantity: one.")
    ] = None,
    large: Annotated[
        bool, typer.Option("--large", help="Sizes up to 10,000 clients and 10,000,000 coordinates. It takes hours.")
    ] = False,
    repeats: Annotated[
        int, typer.Option(min=1, max=100, help="Sessions at each point. The protocols take turns.")
    ] = 1,
    most_seconds: Annotated[
        float | None,
        typer.Option(min=0.1, help="Leave out a session that would take longer. Default: 40, with --large 900."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the sessions in the file of --json, and play the others.")
    ] = False,
    out: Picture = Path("sweep"),
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """Draw how costs grow with one quantity, with fitted powers; or measure every combination of sizes."""
    from bench.plots import pictures

    most = most_seconds or (LONG_SECONDS if large else QUICK_SECONDS)
    check_outputs(as_json, as_html)
    for picture in pictures(out):
        report.check_writable("--out", picture)
    texts = {"clients": clients, "coordinates": coordinates, "dropout": dropout}
    if resume and as_json is None:
        raise ConfigError("got --resume without --json; name the file that has the sessions")
    if over is None:
        if points is not None:
            raise ConfigError("got --points without --over; name the quantity, or list --clients and --coordinates")
        _scale(
            _scaling(protocol, texts, large, as_json if resume else None), (repeats, most), out, as_json, as_html
        )
        return
    if large or resume:
        raise ConfigError(f"got --over {over} with --large or --resume, which are for a sweep of all combinations")
    names = protocol or (list(scale.PROTOCOLS) if over is Over.WORKERS else [])
    sweeping = Sweeping(over, _held(over, texts), points_of(over, points), chosen(names))
    if over is Over.WORKERS:
        check_workers(sweeping.protocols, sweeping.held, [int(at) for at, _ in sweeping.workloads])
    _sweep(sweeping, (repeats, most), out, as_json, as_html)


def _held(over: Over, texts: dict[str, str | None]) -> Workload:
    """The workload whose other quantities stay fixed, as the options say."""
    held = HELD[over]
    for name, text in texts.items():
        if text is None:
            continue
        if name == over:
            raise ConfigError(f"got --{name} with --over {over}; list the values of {over} with --points")
        values = scale.numbers(f"--{name}", text, (), whole=name != "dropout")
        if len(values) != 1:
            raise ConfigError(f"got --{name} {text} with --over {over}; expected one number")
        held = workload_at(Over(name), held, values[0])
    return held


def _sweep(
    sweeping: Sweeping, limits: tuple[int, float], out: Path, as_json: Path | None, as_html: Path | None
) -> None:
    """Run a sweep over one quantity, and show and write its result."""
    from bench.plots import growth, save

    def show(finished: bool) -> None:
        result = sweeping.result()
        grid = report.sweep_grid(result)
        document = report.document(
            report.Kind.SWEEP,
            command_line(),
            finished=finished,
            over=result.over,
            held=result.held,
            points=result.points,
            left_out=result.left_out,
            powers=report.powers(result),
        )
        if result.points:
            show_grid(grid)
            for path in save(growth(result), out):
                typer.echo(f"Picture: {path}")
        write(as_json, as_html, document, [grid], lambda: [growth(result)] if result.points else [])

    with shown(show), progress("bench", sweeping.steps(limits[0])) as step:
        sweeping.run(*limits, step)


def _scaling(
    protocol: list[str] | None, texts: dict[str, str | None], large: bool, before: Path | None
) -> scale.Scaling:
    """The combinations that the options name, without the sessions of an earlier result."""
    workloads = scale.workloads(
        scale.numbers("--clients", texts["clients"], scale.ALL_CLIENTS if large else scale.CLIENTS),
        scale.numbers("--coordinates", texts["coordinates"], scale.ALL_COORDINATES if large else scale.COORDINATES),
        scale.numbers("--dropout", texts["dropout"], scale.DROPOUT, whole=False),
    )
    earlier = scale.earlier(report.read_json(before)) if before is not None and before.exists() else []
    return scale.Scaling(workloads, chosen(protocol or list(scale.PROTOCOLS)), earlier)


def _scale(
    scaling: scale.Scaling, limits: tuple[int, float], out: Path, as_json: Path | None, as_html: Path | None
) -> None:
    """Measure all combinations, and show and write the result. The JSON is written after each of them too."""
    from bench.plots import save
    from bench.sizes import sizes

    def document(finished: bool) -> dict[str, object]:
        return report.document(
            report.Kind.SCALE,
            command_line(),
            finished=finished,
            sessions=scaling.sessions,
            left_out=scaling.left_out,
        )

    def show(finished: bool) -> None:
        grid = scale.scale_grid(scaling.sessions, scaling.left_out)
        show_grid(grid)
        if scaling.sessions:
            for path in save(sizes(scaling.sessions), out):
                typer.echo(f"Picture: {path}")
        draw = [sizes(scaling.sessions)] if scaling.sessions else []
        write(as_json, as_html, document(finished), [grid], lambda: draw)

    def keep() -> None:
        write(as_json, None, document(False), [])

    with shown(show), progress("bench", scaling.steps(limits[0])) as step:
        scaling.run(*limits, step, keep)
