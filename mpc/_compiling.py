"""The decorator that compiles this package's loops, and where their machine code is kept.

Numba keeps it beside the source, or below the home folder of the user. Where it may write to neither (a container
whose user has no home, and packages that belong to another), each process would compile for ten seconds and more.
Then a folder of our own below the system's folder for temporary files takes it.

What lies in such a folder is loaded as code. Only one that nobody but us and the superuser can have written to will
do: it is ours, closed to all others, and nobody else can put another in its place.

``he``, ``mpc`` and ``dp`` know nothing of each other: each has this file, and a test holds the three equal.
"""

import logging
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from numba import config, njit

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("secagg.kernels")  # one for all packages, so that each process says it once


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile ``function`` at its first call, without the interpreter lock.

    The machine code is kept on disk, where the docstring of this module says. Where no folder will do, it is
    compiled anew in each process, and one WARNING says so.
    """
    compiled: Any
    try:
        compiled = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no place for the cache
        compiled = _cached_privately(function)
    return cast(Callable[P, R], compiled)


def _cached_privately(function: Callable[..., Any]) -> Any:
    if not os.path.exists(function.__code__.co_filename):
        return njit(nogil=True)(function)  # what has no file is cached nowhere
    folder = private_folder()
    if folder is not None:
        before, config.CACHE_DIR = config.CACHE_DIR, folder  # Numba looks at it now, and never again
        try:
            return njit(cache=True, nogil=True)(function)
        except RuntimeError:
            pass
        finally:
            config.CACHE_DIR = before
    if vars(_log).setdefault("without_cache", function) is function:
        _log.warning(
            "found no folder for compiled code: every process compiles for some ten seconds anew. Set "
            "NUMBA_CACHE_DIR to a folder that belongs to this user and that nobody else can write to"
        )
    return njit(nogil=True)(function)


def private_folder() -> str | None:
    """The path of our own folder for machine code, which is made where it is missing; None where none is safe."""
    try:
        parent = Path(tempfile.gettempdir()).resolve(strict=True)
        folder = parent / f"secagg-kernels-{os.geteuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return str(folder) if _is_private(folder) else None
    except (OSError, AttributeError):  # nothing to write to, or a system without user ids
        return None


def _is_private(folder: Path) -> bool:
    """Whether ``folder`` is ours and closed to others, and none of them can move it or what it lies in."""
    inner = folder.lstat()
    if not stat.S_ISDIR(inner.st_mode) or inner.st_uid != os.geteuid() or inner.st_mode & 0o077:
        return False
    for outer in map(Path.lstat, folder.parents):
        open_to_others = outer.st_mode & 0o022 and not outer.st_mode & stat.S_ISVTX
        if open_to_others or outer.st_uid not in (0, os.geteuid()):
            return False
    return True
