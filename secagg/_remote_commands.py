"""The commands of parties at a service: ``secagg member`` and ``secagg client``."""

import sys
from numbers import Number
from pathlib import Path
from typing import Any

from secagg._loading import load_function
from secagg._warnings import on_stderr
from secagg.errors import Aborted


@on_stderr()
def member(kit: Path, state: Path, once: bool) -> None:
    """Answer as an aggregator, a decryptor or a committee member until the run is over."""
    from secagg.remote import RemoteMember

    with RemoteMember(kit, state, once=once, on_event=_print) as party:
        print(f"{party.core.party or 'a new party'}: polling {party.core.kit.url}", flush=True)
        party.run()


@on_stderr()
def client(kit: Path, state: Path, train: str, once: bool, wait: float | None) -> None:
    """Train with a function of your own in each round that the service offers."""
    from secagg.api.routes import LONGEST_WAIT
    from secagg.remote import connect

    function = load_function("--train", train)
    longest = LONGEST_WAIT if wait is None else wait
    with connect(kit, state, once=once, wait=longest, on_event=_print) as remote:
        for offer in remote.offers():
            try:
                model = offer.model()
            except Aborted as late:
                print(f"round {offer.number}: not in the sum: {late}", flush=True)
                continue
            update, weight = _weighted(function(model, offer.config))
            result = offer.contribute(update, weight)
            words = {True: "in the sum", False: f"not in the sum: {result.reason}", None: "sent"}
            print(f"round {offer.number}: {words[result.in_sum]}, {result.seconds:.1f} s", flush=True)


def _weighted(trained: Any) -> tuple[Any, Any]:
    """The update and its weight. An update may be a tuple too, but none of its parts is a bare number."""
    if isinstance(trained, tuple) and len(trained) == 2 and isinstance(trained[1], Number | None):
        return trained
    return trained, None


def _print(event: Any) -> None:
    """Print what happens, in one line."""
    details = ", ".join(f"{name} {value}" for name, value in event.details.items())
    session = f" {event.session[:12]}" if event.session else ""
    print(f"{event.what}{session}{f': {details}' if details else ''}", file=sys.stderr, flush=True)
