"""A function that a command line names: ``module:function``."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from secagg.errors import ConfigError


def load_function(option: str, name: str) -> Callable[..., Any]:
    """The function ``name`` of the form ``module:function``; modules of the current folder come first.

    ``ConfigError`` names the ``option`` if there is no such function. What the module itself raises is raised.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise ConfigError(f"got {option} {name}; expected module:function, such as training:run")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        loaded = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"got {option} {name}, which can't be imported: {error}") from error
    if not callable(loaded):
        raise ConfigError(f"got {option} {name}, which is not a function; expected module:function")
    return cast(Callable[..., Any], loaded)
