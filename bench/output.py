"""What a command prints and writes, also when it is interrupted."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from bench import report
from secagg.demo.screen import tables
from secagg.errors import ConfigError

INTERRUPTED = 130


def command_line() -> str:
    """The command line, quoted so that it can be pasted."""
    return shlex.join(["python", "-m", "bench", *sys.argv[1:]])


def show_grid(grid: report.Grid) -> None:
    """Print to stdout, as wide as the terminal or COLUMNS says, else as wide as the table."""
    console = tables(report.WIDTH)
    console.print(report.to_table(grid, console.width))


@contextmanager
def shown(show: Callable[[bool], None]) -> Iterator[None]:
    """Show the results at the end, and also after Ctrl-C, a wrong sum or any other error."""
    try:
        yield
    except KeyboardInterrupt:
        show(False)
        typer.echo("bench: interrupted; the results so far are above", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception:
        show(False)
        raise
    show(True)


def write(
    as_json: Path | None,
    as_html: Path | None,
    document: Mapping[str, Any],
    grids: Sequence[report.Grid],
    draw: Callable[[], Sequence[Any]] = tuple,
) -> None:
    """Write the files that the options name. ``draw`` makes the pictures of the page."""
    if as_json:
        report.write_json(as_json, document)
    if as_html:
        from bench.plots import to_svg

        report.write(as_html, report.to_page(document, grids, [to_svg(figure) for figure in draw()]))


def check_outputs(as_json: Path | None, as_html: Path | None) -> None:
    """``ConfigError`` if a file can't be written, before anything is measured."""
    report.check_writable("--json", as_json)
    report.check_writable("--html", as_html)
    if as_json and as_html and as_json.resolve() == as_html.resolve():
        raise ConfigError(f"got {as_json} for both --json and --html; expected two files")
