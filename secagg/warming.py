"""Compile kernels ahead: for an image, or before the first deadline of a service runs.

A kernel is compiled for the types of its arguments. These depend on the protocol, on the encoding and on the
width of the sums, but hardly on how many clients there are, and not on how many coordinates. So a session of a
few clients over a short vector compiles what a large one needs.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

import numpy as np

from secagg._reading import NUMBERS
from secagg.encoding import Encoding
from secagg.errors import SecAggError
from secagg.fixed_point import FixedPoint
from secagg.layout import Layout
from secagg.protocols.base import AggregationProtocol
from secagg.simulation import simulate
from secagg.table import input_round
from secagg.task import Task

log = logging.getLogger("secagg.kernels")

_PACKAGES = ("he", "mpc", "dp", "secagg")
_MOST_CLIENTS = 32
_FEW_CLIENTS = 6
_LENGTH = 4096  # some kernels are left out for fewer, where they would not pay
_CLIP = 1.0
_ONCE = ("nearest", "nearest, weights", "Skellam noise", "noise of the server")  # the protocol makes no difference


@dataclass(frozen=True)
class Kernel:
    """A kernel that was compiled: its name, how long that took, and the folder of its machine code, if any."""

    name: str
    seconds: float
    folder: str | None


def warm(task: Task) -> None:
    """Compile or load the kernels of ``task``, before a deadline runs."""
    if not play(task):
        log.warning("the kernels of a task could not be compiled ahead; they are compiled when they are needed")


def play(task: Task) -> bool:
    """Play sessions like those of ``task``, but small: without dropouts, and with one. Whether one ended well.

    They log nothing: their clients are invented, and may have the ids of real ones.
    """
    for small in _smaller(task):
        count = _count(small)
        updates = dict.fromkeys((f"c{i + 1}" for i in range(count)), _zeros(small.layout))
        weights = None if small.max_weight is None else dict.fromkeys(updates, 1)
        try:
            with _silence():
                simulate(small, updates, weights=weights)
                if small.min_survivors < count:
                    simulate(small, updates, weights=weights, dropouts={"c1": input_round(small.protocol)})
        except (SecAggError, ValueError) as error:  # also for want of a package
            log.debug("a small session of a task was not possible: %s", error)
            continue
        return True
    return False


@contextmanager
def _silence() -> Iterator[None]:
    """No line about a session from this thread; real sessions run in others."""
    thread = threading.get_ident()
    logger = logging.getLogger("secagg")

    def from_another(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger.addFilter(from_another)
    try:
        yield
    finally:
        logger.removeFilter(from_another)


def _count(task: Task) -> int:
    return min(task.max_clients, max(task.min_survivors + 1, 4))


def _smaller(task: Task) -> Iterator[Task]:
    """Tasks with the same kernels, over a short vector and with few clients, the most similar first.

    With fewer clients an encoding gets more bits, so that the sums stay as wide. The protocol's own numbers, such
    as a threshold, may fit a large cohort only: then the protocol's defaults are taken.
    """
    layout = _short(task.layout)
    few: dict[str, Any] = {"max_clients": _FEW_CLIENTS, "min_survivors": _FEW_CLIENTS - 1}
    sizes: list[dict[str, Any]] = [{}, *({"encoding": encoding, **few} for encoding in _wider(task))]
    for size, protocol in product(sizes, (task.protocol, type(task.protocol))):
        try:
            made = protocol() if isinstance(protocol, type) else protocol
            small = replace(task, protocol=made, layout=layout, **size)
        except (SecAggError, TypeError) as error:
            log.debug("a small task was not possible: %s", error)
            continue
        if _count(small) <= _MOST_CLIENTS:
            yield small


def _wider(task: Task) -> Iterator[Encoding]:
    """The encoding of ``task`` with more bits, so that sums of few clients are as wide; then as it is."""
    more = (task.max_clients // _FEW_CLIENTS).bit_length()
    bits = getattr(task.encoding, "bits", None)
    if isinstance(bits, int):
        with suppress(SecAggError, TypeError, ValueError):
            yield replace(cast(Any, task.encoding), bits=bits + more)
    yield task.encoding


def _short(layout: Layout) -> Layout:
    """A layout with leaves of the same names and dtypes, of a few coordinates each."""
    short = [replace(leaf, shape=(_LENGTH,)) if leaf.size > _LENGTH else leaf for leaf in layout.leaves]
    return Layout.of(_zeros(replace(layout, leaves=tuple(short))))


def _zeros(layout: Layout) -> dict[str, Any]:
    """An update of zeros, by the names of the leaves."""
    kinds = {"bfloat16": "float32"}  # NumPy has no bfloat16, and a vector treats both alike
    return {
        leaf.name: 0 if leaf.dtype in NUMBERS else np.zeros(leaf.shape, kinds.get(leaf.dtype, leaf.dtype))
        for leaf in layout.leaves
    }


def usual(protocols: Iterable[AggregationProtocol], *, every: bool) -> Iterator[tuple[str, Task]]:
    """Tasks that need between them the kernels of ``protocols``, each with a name, for :func:`play`.

    The encodings are this library's own, over vectors of float32 and float64, with sums in lanes of 32 and 64 bits.
    ``SecAggError`` if a protocol takes none of them, for example for want of a package. Unless ``every`` protocol
    is needed, such a protocol is left out, and the error is raised only if no protocol is left.
    """
    chosen = list(protocols)
    played: set[str] = set()
    refused: dict[str, Exception] = {}  # by a protocol that takes no encoding: why not the first one
    for protocol in chosen:
        reasons, count = list[Exception](), 0
        for what, encoding, kind, weight in _encodings():
            if what in played:
                continue
            try:
                task = Task(
                    protocol=protocol,
                    layout=Layout.of(np.zeros(_LENGTH, kind)),
                    encoding=encoding,
                    max_clients=_FEW_CLIENTS,
                    min_survivors=_FEW_CLIENTS - 1,
                    max_weight=weight,
                    context=b"secagg warm",
                )
            except (SecAggError, ValueError) as error:  # not every protocol takes every encoding
                log.debug("%s, %s: %s", protocol.name, what, error)
                reasons.append(error)
                continue
            if what in _ONCE:
                played.add(what)
            count += 1
            yield f"{protocol.name}, {what}", task
        if not count:
            refused[protocol.name] = reasons[0]
    if refused and (every or len(refused) == len(chosen)):
        name, reason = next(iter(refused.items()))
        raise SecAggError(f"got {name}, of which no task can be made here: {reason}") from reason


def _encodings() -> Iterator[tuple[str, Encoding, Any, int | None]]:
    """Encodings with their names, each with the dtype of a vector and with the largest weight, if there are any."""
    import dp

    f32, f64 = np.float32, np.float64
    yield "16 bits", FixedPoint(clip=_CLIP, bits=16), f32, None
    yield "20 bits, weights", FixedPoint(clip=_CLIP, bits=20), f64, 100
    yield "32 bits", FixedPoint(clip=_CLIP, bits=32), f32, None
    yield "16 bits, large weights", FixedPoint(clip=_CLIP, bits=16), f64, 1 << 32
    yield "nearest", FixedPoint(clip=_CLIP, bits=16, rounding="nearest"), f32, None
    yield "nearest, weights", FixedPoint(clip=_CLIP, bits=20, rounding="nearest"), f64, 100
    noise: dict[str, Any] = {"l2_clip": _CLIP, "noise_multiplier": 1.0, "bits": 18}
    yield "Gaussian noise", cast(Encoding, dp.DistributedGaussian(**noise)), f32, None
    yield "Skellam noise", cast(Encoding, dp.DistributedSkellam(**noise)), f32, None
    yield "noise of the server", cast(Encoding, dp.CentralGaussian(**noise)), f32, None


class Recorder:
    """Between ``with`` and its end, a list of the kernels of these packages that were compiled."""

    def __init__(self) -> None:
        self.kernels: list[Kernel] = []

    def __enter__(self) -> Recorder:
        from numba.core import event

        self._listener = event.RecordingListener()
        event.register("numba:compile", self._listener)
        return self

    def __exit__(self, *_: object) -> None:
        from numba.core import event

        event.unregister("numba:compile", self._listener)
        self.settle()

    def settle(self) -> list[Kernel]:
        """The kernels that were compiled since the last call."""
        new: list[Kernel] = []
        started: list[float] = []
        for moment, compilation in self._listener.buffer:
            if compilation.is_start:
                started.append(moment)
                continue
            seconds, dispatcher = moment - started.pop(), compilation.data["dispatcher"]
            function = dispatcher.py_func
            if not started and str(function.__module__).partition(".")[0] in _PACKAGES:
                name = f"{function.__module__}.{function.__qualname__}".replace("<locals>.", "")
                new.append(Kernel(name, seconds, dispatcher.stats.cache_path))
        self._listener.buffer.clear()
        self.kernels += new
        return new


def check_compiler() -> None:
    """``SecAggError`` if ``NUMBA_DISABLE_JIT`` is set: then nothing is compiled."""
    from numba import config

    if config.DISABLE_JIT:
        raise SecAggError("got NUMBA_DISABLE_JIT, with which nothing is compiled; remove it from the environment")


def check_folder() -> None:
    """``SecAggError`` if ``NUMBA_CACHE_DIR`` is set to a folder that this user can't write to."""
    wanted = os.environ.get("NUMBA_CACHE_DIR")
    if not wanted:
        return
    try:
        os.makedirs(wanted, exist_ok=True)
        tempfile.TemporaryFile(dir=wanted).close()
    except OSError as error:
        raise SecAggError(
            f"got NUMBA_CACHE_DIR={wanted}, which this user can't write to ({error.strerror}); expected a folder "
            "of this user: change its owner, or run this as another user"
        ) from error


def check_kept(kernels: Iterable[Kernel]) -> None:
    """``SecAggError`` if there is no folder for the machine code of ``kernels``."""
    if any(kernel.folder is None for kernel in kernels):
        raise SecAggError(
            "got no folder that machine code can be written to; expected NUMBA_CACHE_DIR to be a folder that "
            "belongs to this user, on a disk that is not full"
        )


def folders() -> list[str]:
    """The folders that hold the machine code of the kernels that this process has compiled or loaded."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in _PACKAGES]
    kernels = (thing for module in modules for thing in list(vars(module).values()) if hasattr(thing, "overloads"))
    return sorted({kernel.stats.cache_path for kernel in kernels if kernel.overloads and kernel.stats.cache_path})


def cpu() -> str:
    """The name of the CPU that kernels are compiled for, as Numba's cache has it."""
    from numba.core.registry import cpu_target

    return str(cpu_target.target_context.codegen().magic_tuple()[1])
