"""Threads for heavy work, where the caller passes no executor."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache


@cache
def threads() -> ThreadPoolExecutor:
    """The threads of this process: one pool for all roles, as many threads as processors."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="secagg-masks")


if hasattr(os, "register_at_fork"):
    # A forked child has the pool but none of its threads: a task submitted there would wait forever.
    os.register_at_fork(after_in_child=threads.cache_clear)
