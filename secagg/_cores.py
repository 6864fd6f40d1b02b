"""Whether ``he``, ``mpc`` and ``dp`` are ours: other distributions install packages of these names too.

Each of the three has a line ``__distribution__ = "secagg/..."``, which no other package has, and lies beside
``secagg``. The check runs no code of the packages that it finds, and happens once in a process.
"""

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

CORES = ("he", "mpc", "dp")

_AGAIN = (
    "install secagg again over it: pip install --force-reinstall --no-deps secagg, or in place of that last word "
    "the wheel or folder that you installed secagg from"
)


def check(home: str) -> None:
    """Raise :class:`ImportError`, with what to do, unless all three lie beside ``home`` and are marked.

    ``home`` is the path of secagg's own ``__init__`` file. Called by ``import secagg``.
    """
    if getattr(sys, "frozen", False):  # a frozen executable contains what its builder put in
        return
    folder = os.path.dirname(os.path.dirname(os.path.realpath(home)))
    for name in CORES:
        spec = _find(name)
        origin = None if spec is None or spec.origin is None else os.path.realpath(spec.origin)
        if origin is None:
            raise ImportError(
                f"secagg's package {name!r} is gone, or its __init__ file is. That happens when another "
                f"distribution with a package of that name is removed; {_AGAIN}",
                name=name,
            )
        if os.path.dirname(os.path.dirname(origin)) != folder or not _is_marked(spec, origin, name):
            raise ImportError(_stranger(name, origin), name=name, path=origin)


def _find(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except ValueError:  # a loaded module of that name has no spec
        return None


def _is_marked(spec: ModuleSpec | None, origin: str, name: str) -> bool:
    load = getattr(getattr(spec, "loader", None), "get_data", None)
    try:
        return load is not None and f"secagg/{name}".encode() in load(origin)
    except OSError:
        return False


def _stranger(name: str, origin: str) -> str:
    owner = _owner(name, origin)
    problem = f"secagg needs its own package {name!r}, but Python finds another one, {origin}"
    if owner is None:
        return (
            f"{problem}, which no installed distribution lists. If it is a file or folder of yours, rename it or "
            f"start Python elsewhere; else {_AGAIN}"
        )
    return f"{problem}, of the distribution {owner!r}. Remove that (pip uninstall {owner}), then {_AGAIN}"


def _owner(name: str, origin: str) -> str | None:
    """The name of the distribution, other than secagg, that installed the file ``origin``; None if none did."""
    from importlib.metadata import distributions

    for distribution in distributions():
        title = distribution.metadata["Name"]
        if not title or title == "secagg":
            continue
        for file in distribution.files or ():
            if not file.parts or file.parts[0] not in (name, f"{name}.py"):
                continue
            if os.path.realpath(str(distribution.locate_file(file))) == origin:
                return str(title)
    return None
