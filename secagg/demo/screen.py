"""What a long command shows: its progress on stderr, and its tables on stdout. The benchmarks use it too."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console

_SILENT_SECONDS = 10.0  # without a terminal, the least time between two lines with the same name


def tables(width: int) -> Console:
    """A console for tables, as wide as the terminal or COLUMNS says, else ``width`` characters."""
    columns = os.environ.get("COLUMNS", "")
    wish = int(columns) if columns.isdecimal() else 0
    if wish > 0 or sys.stdout.isatty():
        return Console(width=wish or None)
    return Console(width=width)


@contextmanager
def progress(program: str, total: int) -> Iterator[Callable[[str, str], None]]:
    """Show how far ``program`` is with its ``total`` steps.

    Yields a function to call as each step begins, with the step's name and what it does (may be empty). On a
    terminal a bar moves from the start, while libraries and kernels load. Elsewhere a line is printed when a name
    first comes up, and then every ten seconds.
    """
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bar(total) as begin:
            yield begin
    else:
        yield _lines(program, total)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str, str], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        # A bar without a total moves to and fro.
        bar, begun = shown.add_task("loading", total=None), 0

        def begin(name: str, doing: str) -> None:
            nonlocal begun
            shown.update(bar, total=total, completed=begun, description=_text(name, doing))
            begun += 1

        yield begin


def _lines(program: str, total: int) -> Callable[[str, str], None]:
    begun, last, spoke = 0, "", 0.0

    def begin(name: str, doing: str) -> None:
        nonlocal begun, last, spoke
        begun += 1
        now = monotonic()
        if name != last or now - spoke >= _SILENT_SECONDS:
            last, spoke = name, now
            print(f"{program}: {_text(name, doing)}, {min(begun, total)} of {total}", file=sys.stderr, flush=True)

    return begin


def _text(name: str, doing: str) -> str:
    return f"{name}: {doing}" if doing else name
