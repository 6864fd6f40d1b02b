"""Several servers that share a round: what one of them took is checked before another takes it up.

Each *shard* is restored from the state that was saved when the round opened, and takes the answers of its own
senders.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from secagg.beacon import Fetch
from secagg.errors import ConfigError
from secagg.identity import Roster
from secagg.roles.environment import Environment
from secagg.roles.state import ServerState

if TYPE_CHECKING:
    from secagg.task import Task

Messages = list[tuple[str, bytes | memoryview]]

_TAG = 16
SUMS = "sums"
_UNITED = {SUMS, "number", "answered", "taken", "faults"}  # that may differ between two shards of any protocol


def check_shard(ours: ServerState, theirs: ServerState, merge: tuple[str, ...]) -> None:
    """``ConfigError`` unless both servers took answers of different senders in the same round of one session.

    Whatever else they hold has to be the same.
    """
    united = {*_UNITED, *merge}
    for field in msgspec.structs.fields(ours):
        if field.name not in united and getattr(ours, field.name) != getattr(theirs, field.name):
            raise ConfigError(
                f"got a part with another {field.name}; expected one of a server that was restored from the state "
                "with which this round opened. Nothing was absorbed"
            )
    if both := sorted(set(ours.answered) & set(theirs.answered)):
        raise ConfigError(
            f"got a part with the answer of {both[0]}, which is here already; give each sender to one server. "
            "Nothing was absorbed"
        )
    for name in set(merge) - {SUMS}:
        _check_entries(name, ours, theirs)
    for sender in ours.taken.keys() | theirs.taken.keys():
        _check_tags(sender, ours, theirs)


def _check_entries(name: str, ours: ServerState, theirs: ServerState) -> None:
    """``ConfigError`` unless the entries of both are alike, apart from those of who answered only one of them."""
    here, there = getattr(ours, name), getattr(theirs, name)
    mine, others = here.keys() - set(ours.answered), there.keys() - set(theirs.answered)
    if mine != others or any(here[sender] != there[sender] for sender in mine):
        raise ConfigError(f"got a part with other {name} of senders that did not answer it; nothing was absorbed")


def _check_tags(sender: str, ours: ServerState, theirs: ServerState) -> None:
    """``ConfigError`` unless each has taken one message more than the other of who answered it, else the same."""
    here, there = (bytes(state.taken.get(sender, b"")) for state in (ours, theirs))
    mine, others = (_TAG * (sender in state.answered) for state in (ours, theirs))
    if here[: len(here) - mine] != there[: len(there) - others]:
        raise ConfigError(f"got a part that took other messages of {sender} before; nothing was absorbed")


def check_sums(ours: list[NDArray[Any]], theirs: list[NDArray[Any]], *, added: bool) -> None:
    """``ConfigError`` for sums that can't be added up or, in a round that adds to none, for others."""
    if added and ours and theirs:
        fit = [(lane.shape, lane.dtype) for lane in ours] == [(lane.shape, lane.dtype) for lane in theirs]
    else:
        fit = added or (len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs)))
    if not fit:
        raise ConfigError("got a part with sums that don't belong to these; nothing was absorbed")


def add_sums(ours: list[NDArray[Any]], theirs: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """The sums of both, of which one may be empty."""
    for total, more in zip(ours, theirs, strict=False):
        total += more
    return ours or theirs


def unite_states(ours: ServerState, theirs: ServerState, merge: tuple[str, ...]) -> None:
    """Take up the answers of another server, which were checked."""
    ours.answered.extend(theirs.answered)
    for sender in theirs.answered:
        ours.taken[sender] = theirs.taken[sender]
    for name in set(merge) - {SUMS}:
        there: Mapping[str, Any] = getattr(theirs, name)
        getattr(ours, name).update({sender: there[sender] for sender in theirs.answered if sender in there})


def take_part(
    task: Task, roster: Roster | None, beacon: Fetch | None, opened: bytes, messages: Messages
) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Take the messages of some senders in a shard; returns its state, and what to hand on to which party.

    A worker runs this. ``opened`` is the state with which the round was opened.
    """
    lent, onward = Environment(roster=roster, beacon=beacon), list[tuple[str, bytes]]()
    shard = task.protocol.server._shard_from_bytes(opened, task, lent)
    for sender, data in messages:
        onward += shard.receive(sender, data).items()
    return shard.to_bytes(), onward


def divided(messages: Messages, senders: Collection[str], count: int) -> tuple[list[Messages], Messages]:
    """At most ``count`` parts, of about as many bytes, and the messages of others than ``senders``.

    All messages of one sender are in one part, in their order.
    """
    by_sender, rest = dict[str, Messages](), Messages()
    for sender, data in messages:
        if type(sender) is str and sender in senders and type(data) in (bytes, memoryview):
            by_sender.setdefault(sender, []).append((sender, bytes(data)))
        else:
            rest.append((sender, data))
    parts = [Messages() for _ in range(min(count, len(by_sender)))]
    sizes = [0] * len(parts)
    for sent in by_sender.values():
        least = min(range(len(parts)), key=sizes.__getitem__)
        parts[least] += sent
        sizes[least] += sum(len(data) for _, data in sent)
    return parts, rest
