"""The commands of parties at a service: ``secagg member`` and ``secagg client``."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from secagg.errors import ConfigError


def member(kit: Path, state: Path, once: bool) -> None:
    """Answer as an aggregator, a decryptor or a committee member until the run is over."""
    from secagg.remote import RemoteMember

    with RemoteMember(kit, state, once=once, on_event=_print) as party:
        print(f"{party.core.party or 'a new party'}: polling {party.core.kit.url}", flush=True)
        party.run()


def client(kit: Path, state: Path, train: str, once: bool, wait: float | None) -> None:
    """Train with a function of your own in each round that the service offers."""
    from secagg.api.routes import LONGEST_WAIT
    from secagg.remote import connect

    function = _load(train)
    longest = LONGEST_WAIT if wait is None else wait
    with connect(kit, state, once=once, wait=longest, on_event=_print) as remote:
        for offer in remote.offers():
            trained = function(offer.model(), offer.config)
            update, weight = trained if isinstance(trained, tuple) else (trained, None)
            result = offer.contribute(update, weight)
            words = {True: "in the sum", False: f"not in the sum: {result.reason}", None: "sent"}
            print(f"round {offer.number}: {words[result.in_sum]}, {result.seconds:.1f} s", flush=True)


def _load(name: str) -> Callable[[Any, Any], Any]:
    """The function ``module:function``, with modules of the current folder."""
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        loaded = getattr(importlib.import_module(module), function) if module and function else None
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"got --train {name}, which can't be imported: {error}") from error
    if not callable(loaded):
        raise ConfigError(f"got --train {name}; expected module:function, a function of the model and the config")
    return loaded  # type: ignore[no-any-return]


def _print(event: Any) -> None:
    """Print what happens, in one line."""
    details = ", ".join(f"{name} {value}" for name, value in event.details.items())
    session = f" {event.session[:12]}" if event.session else ""
    print(f"{event.what}{session}{f': {details}' if details else ''}", file=sys.stderr, flush=True)
