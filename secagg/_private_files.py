"""Warns of private keys that other users of the machine can read."""

import logging
import os
import shlex
import stat
import threading

_OTHERS = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH

_log = logging.getLogger("secagg")
_lock = threading.Lock()
_named: set[tuple[str, int]] = set()


def warn_if_shared(path: str | os.PathLike[str]) -> None:
    """Log one WARNING if other users may read or change the private key that was read from ``path``.

    It is not an error, because container systems mount secrets with mode 0644 or 0440. An adapter reads its key
    for each message, so a process names each file once.
    """
    try:
        status, name = os.stat(path), os.fspath(path)
    except OSError:  # gone since
        return
    mode = stat.S_IMODE(status.st_mode)
    if os.name != "posix" or not stat.S_ISREG(status.st_mode) or not mode & _OTHERS:
        return
    with _lock:
        if (name, mode) in _named:
            return
        _named.add((name, mode))
    _log.warning(
        "%s holds a secret, and its mode %04o lets other users read or change it; run: chmod 600 %s",
        name,
        mode,
        shlex.quote(name),
    )
