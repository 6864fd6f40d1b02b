"""The command that compiles kernels ahead, such as for an image."""

from __future__ import annotations

import json as to_json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from secagg import warming
from secagg._enrolment_commands import read_task
from secagg.errors import SecAggError
from secagg.protocols import chosen
from secagg.task import Task


def warm(protocol: Sequence[str] | None, task: Sequence[Path] | None, json: bool) -> None:
    """Compile the kernels of protocols and tasks, and print which, how long it took, and where they are."""
    tasks: list[tuple[str, Task]] = [(str(path), read_task(path)) for path in task or []]
    warming.check_compiler()
    if protocol or not task:
        tasks += warming.usual(chosen(protocol or []).values(), every=bool(protocol))
    warming.check_folder()
    start = perf_counter()
    with warming.Recorder() as recorder, _progress(len(tasks), hidden=json) as advance:
        for name, one in tasks:
            advance(name)
            if not warming.play(one):
                raise SecAggError(
                    f"got {name}, of which no small session can be played; see it with secagg describe"
                )
            warming.check_kept(recorder.settle())
    seconds, folders = perf_counter() - start, warming.folders()
    if json:
        kernels = [{"name": kernel.name, "seconds": round(kernel.seconds, 3)} for kernel in recorder.kernels]
        document = {"cpu": warming.cpu(), "seconds": round(seconds, 3), "folders": folders, "compiled": kernels}
        print(to_json.dumps(document, indent=2))
        return
    for kernel in recorder.kernels:
        print(f"{kernel.seconds:6.2f} s  {kernel.name}")
    print(f"compiled {len(recorder.kernels)} kernels for the CPU {warming.cpu()}, in {seconds:.1f} s in all")
    for folder in folders:
        print(f"machine code: {folder}")


@contextmanager
def _progress(count: int, *, hidden: bool) -> Iterator[Callable[[str], None]]:
    """A function to call with the name of each task as it begins; it shows a bar on a terminal that has rich."""
    shown = not hidden and sys.stderr.isatty()
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ModuleNotFoundError:
        yield (lambda name: print(name, file=sys.stderr)) if shown else (lambda name: None)
        return
    with Progress(console=Console(stderr=True), disable=not shown, transient=True) as bar:
        work = bar.add_task("", total=count)

        def advance(name: str) -> None:
            bar.update(work, description=name)
            bar.advance(work)

        yield advance
