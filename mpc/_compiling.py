"""The decorator that compiles this package's loops, and the folder for their machine code.

Numba keeps machine code beside the source, or below the user's home folder. If it may write to neither
(in a container whose user has no home, with packages that belong to another user), each process would
compile for ten seconds or more. Then a private folder below the system's folder for temporary files
is used.

Files in that folder are loaded as code. So only this user and the superuser may be able to write to
it: the folder belongs to this user, is closed to all others, and nobody else can replace it.

Numba passes over a folder that it may not write to. An image has its machine code in such a folder, though,
if it runs as another user than the one that built it, or from a read-only file system. So this module also
reads what lies in ``NUMBA_CACHE_DIR`` or beside the source. New code then goes to the private folder.

A file may be damaged, and a disk may be full. Then a kernel is compiled again, and a WARNING says so.

``he``, ``mpc`` and ``dp`` know nothing of each other. Each has this file, and a test holds the three
equal.
"""

import gc
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

_collecting = gc.isenabled()
gc.disable()  # Numba makes a million objects that stay: looking for garbage among them takes an eighth of the time
try:
    from numba import config, njit
    from numba.core import caching, event
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target

    if not config.DISABLE_JIT:
        with global_compiler_lock:
            cpu_target.target_context.refresh()  # as the first kernel would
finally:
    if _collecting:
        gc.enable()

P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger("secagg.kernels")  # one for all packages, so that each process warns once

_PACKAGES = ("he", "mpc", "dp", "secagg")
_OPTIONS = {"nogil": True, "no_cfunc_wrapper": True}  # C code doesn't call the kernels


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile ``function`` at its first call, without the interpreter lock.

    The machine code is kept on disk, in a folder that the docstring of this module names. If no folder
    is safe, each process compiles again, and logs one WARNING. Each compilation is logged, at INFO.
    """
    compiled: Any
    try:
        compiled = njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no folder for the cache
        compiled = _cached_privately(function)
    shipped = _shipped(function)
    if not config.DISABLE_JIT and (shipped or compiled._cache.cache_path):
        compiled._cache = _Layers(function, shipped, compiled._cache)
    return cast(Callable[P, R], compiled)


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """Make ``function`` a part of each kernel that calls it, which costs less than compiling it by itself."""
    return cast(Callable[P, R], njit(nogil=True, inline="always")(function))


def _cached_privately(function: Callable[..., Any]) -> Any:
    if not os.path.exists(function.__code__.co_filename):
        return njit(**_OPTIONS)(function)  # Numba caches no function without a file
    folder = private_folder()
    if folder is not None:
        before, config.CACHE_DIR = config.CACHE_DIR, folder  # Numba reads it only now
        try:
            return njit(cache=True, **_OPTIONS)(function)
        except RuntimeError:
            pass
        finally:
            config.CACHE_DIR = before
    if _shipped(function) is None:
        _warn(function)
    return njit(**_OPTIONS)(function)


def _warn(function: Callable[..., Any]) -> None:
    """Log, once for all packages, that machine code can't be kept."""
    if vars(_log).setdefault("without_cache", function) is function:
        _log.warning(
            "no folder for compiled code is safe: every process compiles again, for seconds. Set NUMBA_CACHE_DIR "
            "to a folder that belongs to this user and that nobody else can write to"
        )


class _Given(caching.UserProvidedCacheLocator):  # type: ignore[misc]
    """``NUMBA_CACHE_DIR``, if it is there; whether this user may write to it doesn't matter."""

    def ensure_cache_path(self) -> None:
        os.scandir(self.get_cache_path()).close()


class _InTree(caching.InTreeCacheLocator):  # type: ignore[misc]
    """The folder beside the source, in the same way."""

    def ensure_cache_path(self) -> None:
        os.scandir(self.get_cache_path()).close()


class _ShippedFiles(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Given, _InTree)


class _Shipped(caching.FunctionCache):  # type: ignore[misc]
    """Machine code of a function that this user may read, but not add to."""

    _impl_class = _ShippedFiles

    @property
    def there(self) -> bool:
        """Whether Numba passes over this cache, although it has machine code that only the sources' owner wrote."""
        if os.access(self.cache_path, os.W_OK) or not os.access(self._cache_file._index_path, os.R_OK):
            return False
        return _is_trusted(self.cache_path, os.stat(self._py_func.__code__.co_filename).st_uid)


@cache
def _is_trusted(folder: str, owner: int) -> bool:
    """Whether only the superuser, this user and ``owner`` can change what ``folder`` holds, or replace it."""
    path, owners = Path(folder).resolve(), (0, os.geteuid(), owner)
    for entry in (path, *path.iterdir()):
        status = entry.lstat()
        if status.st_uid not in owners or status.st_mode & 0o022:
            return False
    return _stays(path, owners)


def _stays(folder: Path, owners: tuple[int, ...]) -> bool:
    """Whether nobody but ``owners`` can move ``folder`` or the folders that it lies in."""
    for outer in map(Path.lstat, folder.parents):
        open_to_others = outer.st_mode & 0o022 and not outer.st_mode & stat.S_ISVTX
        if open_to_others or outer.st_uid not in owners:
            return False
    return True


def _shipped(function: Callable[..., Any]) -> Any:
    """The cache that was shipped with ``function``, or None."""
    if config.DISABLE_JIT or getattr(config, "CACHE_LOCATOR_CLASSES", ""):
        return None
    try:
        shipped = _Shipped(function)
        return shipped if shipped.there else None
    except (RuntimeError, OSError):  # no such folder, or no file of the function
        return None


class _Layers:
    """The cache that was shipped, if there is one, and the own one, in the place of Numba's."""

    def __init__(self, function: Callable[..., Any], shipped: Any, own: Any) -> None:
        self.function, self.shipped, self.own = function, shipped, own
        self.cache_path = own.cache_path

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The machine code for ``signature``, or None: also if the files are damaged, or of another signature."""
        for layer in (self.shipped, self.own):
            if layer is None:
                continue
            try:
                result = layer.load_overload(signature, context)
            except Exception as error:  # damaged bytes raise anything when they are unpickled
                _warn_of_files(layer.cache_path, error)
                continue
            # Two processes that save at the same time may take one name for two files.
            if result is not None and tuple(result.signature.args) == tuple(signature):
                return result
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Keep what the shipped cache doesn't have, such as code for another CPU, if there is a folder for it."""
        if self.own.cache_path is None:
            _warn(self.function)
        try:
            try:
                self.own.save_overload(signature, result)
            except Exception:  # a damaged index
                self.own.flush()
                self.own.save_overload(signature, result)
        except Exception as error:  # a full disk; the kernel runs all the same
            _warn_of_files(self.own.cache_path, error)
            self.cache_path = None

    def flush(self) -> None:
        """Forget this user's own machine code."""
        self.own.flush()


def _warn_of_files(folder: str, error: Exception) -> None:
    """Log, once for all packages, that files of machine code can't be read or written."""
    first = object()
    if vars(_log).setdefault("damaged_cache", first) is first:
        _log.warning(
            "machine code in %s can't be read or written (%s: %s), so kernels are compiled again: empty that "
            "folder if its files are damaged, or make room on its disk",
            folder,
            type(error).__name__,
            error,
        )


class _Reporter(event.Listener):  # type: ignore[misc]
    """Logs which kernels are compiled, and for how long. What they call is compiled meanwhile."""

    def __init__(self) -> None:
        self.started: list[float] = []  # under Numba's lock, which one thread holds at a time

    def on_start(self, compilation: Any) -> None:
        self.started.append(time.perf_counter())

    def on_end(self, compilation: Any) -> None:
        seconds = time.perf_counter() - self.started.pop()
        function = compilation.data["dispatcher"].py_func
        if not self.started and str(function.__module__).partition(".")[0] in _PACKAGES:
            _log.info(
                "compiled %s.%s in %.2f s; to compile ahead, such as for an image, run: secagg warm",
                function.__module__,
                function.__qualname__,
                seconds,
            )


_reporter = _Reporter()
if vars(_log).setdefault("reporter", _reporter) is _reporter:
    event.register("numba:compile", _reporter)


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
    if not _stays(folder, (0, os.geteuid())):
        return False
    # The folder may have been open to others before, and what they put there would be loaded as code.
    return all(map(_is_own, folder.rglob("*")))


def _is_own(entry: Path) -> bool:
    """Whether this user or the superuser made this file or folder, or it is gone."""
    try:
        return entry.lstat().st_uid in (0, os.geteuid())
    except FileNotFoundError:  # another process has put a newer file in its place
        return True
