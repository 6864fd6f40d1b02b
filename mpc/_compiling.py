"""The decorator that compiles this package's loops, and the folder for their machine code.

Numba keeps machine code beside the source, or below the user's home folder. If it may write to neither
(in a container whose user has no home, with packages that belong to another user), each process would
compile for ten seconds or more. Then a private folder below the system's folder for temporary files
is used.

Files in that folder are loaded as code. So only this user and the superuser may be able to write to
it: the folder belongs to this user, is closed to all others, and nobody else can replace it.

``he``, ``mpc`` and ``dp`` know nothing of each other. Each has this file, and a test holds the three
equal.
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

_log = logging.getLogger("secagg.kernels")  # one for all packages, so that each process warns once


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile ``function`` at its first call, without the interpreter lock.

    The machine code is kept on disk, in a folder that the docstring of this module names. If no folder
    is safe, each process compiles again, and logs one WARNING.
    """
    compiled: Any
    try:
        compiled = njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder for the cache
        compiled = _cached_privately(function)
    return cast(Callable[P, R], compiled)


def _cached_privately(function: Callable[..., Any]) -> Any:
    if not os.path.exists(function.__code__.co_filename):
        return njit(nogil=True)(function)  # Numba caches no function without a file
    folder = private_folder()
    if folder is not None:
        before, config.CACHE_DIR = config.CACHE_DIR, folder  # Numba reads it only now
        try:
            return njit(cache=True, nogil=True)(function)
        except RuntimeError:
            pass
        finally:
            config.CACHE_DIR = before
    if vars(_log).setdefault("without_cache", function) is function:
        _log.warning(
            "no folder for compiled code is safe: every process compiles again, for about ten seconds. Set "
            "NUMBA_CACHE_DIR to a folder that belongs to this user and that nobody else can write to"
        )
    return njit(nogil=True)(function)


def private_folder() -> str | None:
    """The path of the private folder for machine code, created if missing; None if no folder is safe."""
    try:
        parent = Path(tempfile.gettempdir()).resolve(strict=True)
        folder = parent / f"secagg-kernels-{os.geteuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return str(folder) if _is_private(folder) else None
    except (OSError, AttributeError):  # no folder can be written to, or a system without user ids
        return None


def _is_private(folder: Path) -> bool:
    """Whether ``folder`` is this user's and closed to others, and no other user can move it or its parents."""
    inner = folder.lstat()
    if not stat.S_ISDIR(inner.st_mode) or inner.st_uid != os.geteuid() or inner.st_mode & 0o077:
        return False
    for outer in map(Path.lstat, folder.parents):
        open_to_others = outer.st_mode & 0o022 and not outer.st_mode & stat.S_ISVTX
        if open_to_others or outer.st_uid not in (0, os.geteuid()):
            return False
    # The folder may have been open to others before, and what they put there would be loaded as code.
    return all(map(_is_own, folder.rglob("*")))


def _is_own(entry: Path) -> bool:
    """Whether this user or the superuser made this file or folder, or it is gone."""
    try:
        return entry.lstat().st_uid in (0, os.geteuid())
    except FileNotFoundError:  # another process has put a newer file in its place
        return True
