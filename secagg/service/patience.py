"""What the service does while its disk is full: it tries again, until there is space."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from secagg.errors import SecAggError

log = logging.getLogger("secagg.service")

Result = TypeVar("Result")
_PASSING: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM))


def passes(error: BaseException) -> bool:
    """Whether the disk or the system is the cause of ``error``, so that the same call may work later."""
    return isinstance(error, OSError) or getattr(error.__cause__, "errno", None) in _PASSING


async def pause(failures: int) -> None:
    """Wait after so many failures in a row: at most ten seconds."""
    await asyncio.sleep(min(10.0, 0.25 * 2 ** min(failures, 8)))


async def until_written(call: Callable[..., Result], *arguments: object) -> Result:
    """Run ``call`` in a thread, again and again while the disk or the system is the cause that it fails."""
    failures = 0
    while True:
        try:
            return await asyncio.to_thread(call, *arguments)
        except (OSError, SecAggError) as error:
            if not passes(error):
                raise
            failures += 1
            log.warning("the service's folder can't be written yet: %s", error)
        await pause(failures)
