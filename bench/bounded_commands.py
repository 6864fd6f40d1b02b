"""The commands whose figures are held to bounds. They say which bounds are missed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import report
from bench.bounds import Bound, bounds_grid, bounds_plain, missed
from bench.options import Bits, Clients, Dropout, Html, Json, Names, Picture, Seed
from bench.output import check_outputs, command_line, show_grid, shown, write
from secagg.demo.screen import progress
from secagg.errors import ConfigError
from secagg.protocols import chosen


def federated(
    seeds: Annotated[
        int, typer.Option(min=1, max=5, help="Data sets and first models. The reference figures have 5.")
    ] = 5,
    out: Picture = Path("federated.png"),
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """Train on digits under secure sums: optimizers, compression, attackers. Says which bounds are missed."""
    from bench.curves import curves
    from bench.federated import Federated, grids
    from bench.plots import pictures, save

    check_outputs(as_json, as_html)
    for picture in pictures(out):
        report.check_writable("--out", picture)
    workload = Federated(seeds)

    def show(finished: bool) -> None:
        pages = grids(workload)
        for grid in pages:
            show_grid(grid)
        document = report.document(
            report.Kind.FEDERATED,
            command_line(),
            finished=finished,
            seeds=seeds,
            figures=[{**report.plain(one), "mean": one.mean, "spread": one.spread} for one in workload.figures],
            bytes_up=workload.bytes_up,
            bounds=bounds_plain(workload.bounds()),
        )
        if finished:
            for path in save(curves(workload), out):
                typer.echo(f"Picture: {path}")
        write(as_json, as_html, document, pages, lambda: [curves(workload)] if finished else [])

    with shown(show), progress("bench", workload.steps) as step:
        workload.run(step)
    _say_missed(workload.bounds())


def resnet18(
    protocol: Names = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", help="Leave out this protocol. Repeat the option for more. Paillier takes minutes."),
    ] = None,
    clients: Clients = 10,
    width: Annotated[
        int, typer.Option(help="Channels of the first layer. ResNet-18 has 64; fewer are quick.")
    ] = 64,
    dropout: Dropout = 0.1,
    bits: Bits = 16,
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Sessions of each protocol.")] = 1,
    out: Picture = Path("resnet18.png"),
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """Sum updates of ResNet-18's shape: seconds, bytes and memory of each party. Says which bounds are missed."""
    from bench import spending
    from bench.dots import dots
    from bench.plots import pictures, save
    from bench.resnet18 import ResNet18

    left_out = chosen(skip, "--skip") if skip else {}
    protocols = {name: one for name, one in chosen(protocol or []).items() if name not in left_out}
    if not protocols:
        raise ConfigError("got --skip for every protocol; expected at least one that is left to measure")
    workload = ResNet18(clients, dropout=dropout, bits=bits, seed=seed, width=width)
    check_outputs(as_json, as_html)
    for picture in pictures(out):
        report.check_writable("--out", picture)
    measuring = spending.Measuring(workload, protocols)

    def show(finished: bool) -> None:
        rows = measuring.rows
        bounds = spending.bounds(rows, workload)
        pages = [*spending.grids(rows, workload), *([bounds_grid(bounds)] if bounds else [])]
        for grid in pages:
            show_grid(grid)
        document = report.document(
            report.Kind.RESNET18,
            command_line(),
            finished=finished,
            workload=workload,
            rows=rows,
            bounds=bounds_plain(bounds),
        )
        if rows:
            for path in save(dots(rows, workload), out):
                typer.echo(f"Picture: {path}")
        write(as_json, as_html, document, pages, lambda: [dots(rows, workload)] if rows else [])

    with shown(show), progress("bench", repeats * measuring.steps) as step:
        measuring.run(repeats, step)
    _say_missed(spending.bounds(measuring.rows, workload))


def ring(
    repeats: Annotated[int, typer.Option(min=3, max=1000, help="Turns of each comparison.")] = 15,
    seconds: Annotated[
        float, typer.Option(min=1, help="Take fewer turns, at least 3, if a comparison would take longer.")
    ] = 15.0,
    before: Annotated[
        Path | None,
        typer.Option(help="Folder of another checkout, such as an older commit's, to be compared with too."),
    ] = None,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """CKKS and BFV on one core: our kernels, SEAL and NVFlare's defaults in turn. Says which bounds are missed."""
    from bench.ring import Comparing, grids

    check_outputs(as_json, as_html)
    comparing = Comparing(before)

    _hold(
        report.Kind.RING,
        (as_json, as_html),
        lambda step: comparing.run(repeats, seconds, step),
        comparing.steps,
        lambda processor: grids(comparing, processor),
        comparing.bounds,
        lambda: {
            "arithmetic": comparing.arithmetic,
            "core": comparing.core,
            "before": None if comparing.before is None else str(comparing.before),
            "timed": comparing.timed,
        },
    )


def oneshot(
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Sessions of OneShot and of SecAgg, in turn.")] = 3,
    seconds: Annotated[
        float, typer.Option(min=1, help="Take fewer turns of the openings, at least 3, if they would take longer.")
    ] = 10.0,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """OneShot against SecAgg on one core: CPU and memory of each party, and bytes. Says which bounds are missed."""
    from bench.oneshot import Measuring, bounds, figures, grids

    check_outputs(as_json, as_html)
    measuring = Measuring()

    _hold(
        report.Kind.ONESHOT,
        (as_json, as_html),
        lambda step: measuring.run(repeats, seconds, step),
        measuring.steps(repeats),
        lambda processor: grids(measuring, processor),
        lambda: bounds(measuring),
        lambda: {
            "arithmetic": measuring.arithmetic,
            "core": measuring.core,
            "workload": measuring.workload,
            "figures": figures(measuring),
        },
    )


def service(
    turns: Annotated[
        int, typer.Option(min=1, max=20, help="Turns of the uploads over the service and alone.")
    ] = 20,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, which show that it works.")] = False,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """The service under load: CPU of an upload, memory of sessions, waiting polls. Says which bounds are missed."""
    from bench.service import FULL, QUICK, Measuring, bounds, figures, grids, wholes

    check_outputs(as_json, as_html)
    measuring = Measuring(QUICK if quick else FULL)

    _hold(
        report.Kind.SERVICE,
        (as_json, as_html),
        lambda step: measuring.run(turns, step),
        measuring.steps,
        lambda processor: grids(measuring, processor),
        lambda: bounds(measuring),
        lambda: {"sizes": measuring.sizes, "figures": [*figures(measuring), *wholes(measuring)]},
    )


def cold(
    session: Annotated[
        list[str] | None,
        typer.Option("--session", help="Measure only this protocol or encoding. Repeat the option for more."),
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, max=20, help="Turns of each session; the quickest of them is shown.")
    ] = 1,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """CPU of a process's first session, with an empty and a warm cache of kernels. Says which bounds are missed."""
    from bench.cold import Measuring, cold_grid, known

    check_outputs(as_json, as_html)
    measuring = Measuring(known(session or []), repeats)

    _hold(
        report.Kind.COLD,
        (as_json, as_html),
        measuring.run,
        measuring.steps,
        lambda processor: [cold_grid(measuring.best(), processor)],
        measuring.bounds,
        lambda: {"repeats": repeats, "firsts": measuring.best()},
    )


def crowd(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, which show that it works.")] = False,
    most_clients: Annotated[int, typer.Option(min=30, help="Leave out the rounds of more clients.")] = 10_000,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """Rounds of 1,000 to 10,000 clients: the server, a client, and all. Says which bounds are missed."""
    from bench.crowd import FULL, QUICK, Measuring, crowd_grid

    check_outputs(as_json, as_html)
    measuring = Measuring([one for one in (QUICK if quick else FULL) if one.clients <= most_clients])

    _hold(
        report.Kind.CROWD,
        (as_json, as_html),
        measuring.run,
        len(measuring.sizes),
        lambda processor: [crowd_grid(measuring.rounds, processor)],
        measuring.bounds,
        lambda: {"rounds": measuring.rounds},
    )


def masks(
    repeats: Annotated[int, typer.Option(min=3, max=1000, help="Turns of each comparison.")] = 15,
    seconds: Annotated[
        float, typer.Option(min=1, help="Take fewer turns, at least 3, if a comparison would take longer.")
    ] = 10.0,
    as_json: Json = None,
    as_html: Html = None,
) -> None:
    """Masks on one core against raw keystream of OpenSSL and a memory copy. Says which bounds are missed."""
    from bench.masks import Measuring, masks_grid

    check_outputs(as_json, as_html)
    measuring = Measuring()

    _hold(
        report.Kind.MASKS,
        (as_json, as_html),
        lambda step: measuring.run(repeats, seconds, step),
        measuring.steps,
        lambda processor: [masks_grid(measuring, processor)],
        measuring.bounds,
        lambda: {"path": measuring.path, "compared": measuring.compared},
    )


def _hold(
    kind: report.Kind,
    outputs: tuple[Path | None, Path | None],
    run: Callable[[Callable[[str, str], None]], object],
    steps: int,
    grids: Callable[[str], Sequence[report.Grid]],
    bounds: Callable[[], Sequence[Bound]],
    figures: Callable[[], dict[str, Any]],
) -> None:
    """Measure by ``run`` in so many ``steps``; show and write what there is, also when it is cut short.

    ``outputs`` are the files for JSON and HTML. ``grids`` gets the processor's name. ``figures`` are the fields of
    the JSON document.
    """

    def show(finished: bool) -> None:
        held = bounds()
        pages = [*grids(report.machine()["processor"]), *([bounds_grid(held)] if held else [])]
        for grid in pages:
            show_grid(grid)
        document = report.document(kind, command_line(), finished=finished, **figures(), bounds=bounds_plain(held))
        write(*outputs, document, pages)

    with shown(show), progress("bench", steps) as step:
        run(step)
    _say_missed(bounds())


def _say_missed(bounds: Sequence[Bound]) -> None:
    if words := missed(bounds):
        typer.echo(f"bench: {words}", err=True)
