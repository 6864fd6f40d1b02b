"""Runs Flower in one process, for benchmarks and tests: a grid whose nodes are ClientApps.

As in a deployment, each message and each context is serialised by Flower and read again, so that a node keeps
nothing between messages but its context. The bytes of a message are those of its objects, each counted once. With
``true_bytes=False`` messages and contexts are handed over as they are, and nothing is counted.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.serde import context_from_proto, context_to_proto
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

RUN = 7
# A runtime of Flower sets these before an app starts.
TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, 1

Handler = Callable[[Any, Any], Any]


def on_the_wire(message: Any) -> dict[str, bytes]:
    """The objects of a message as Flower sends them, by name, each once."""
    with no_object_id_recompute():
        return {name: nested.deflate() for name, nested in get_all_nested_objects(message).items()}


def through_bytes(message: Any) -> tuple[Any, int]:
    """``message`` as it arrives, and the number of bytes that were sent."""
    contents = on_the_wire(message)
    size = sum(map(len, contents.values()))
    with no_object_id_recompute():
        name = message.object_id
    arrived = inflate_object_from_contents(name, contents)  # this empties ``contents``
    arrived.metadata.__dict__["_message_id"] = name
    return arrived, size


@dataclass
class Node:
    """One SuperNode: its app, and its context between messages."""

    app: Handler
    context: Any
    true_bytes: bool
    requests: list[dict[str, Any]] = field(default_factory=list)  # the records of each

    def answer(self, message: Any) -> Any:
        self.requests.append(dict(message.content))
        context = context_from_proto(context_to_proto(self.context)) if self.true_bytes else self.context
        try:
            reply = self.app(message, context)
        except Exception as error:
            reply = Message(Error(2, f"{type(error)}:<'{error}'>"), reply_to=message)
        self.context = context_from_proto(context_to_proto(context)) if self.true_bytes else context
        return reply


class LoopbackGrid(Grid):  # type: ignore[misc]
    """Nodes 1, 2, … in this process.

    ``spoil(node, request)`` may change a request before a node gets it, and ``tamper(node, reply)`` its reply. A
    message is dropped if they return None.
    """

    def __init__(
        self,
        apps: Iterable[Handler],
        configs: Iterable[Mapping[str, Any]] | None = None,
        *,
        true_bytes: bool = True,
    ) -> None:
        handlers = list(apps)
        settings = [{} for _ in handlers] if configs is None else [dict(config) for config in configs]
        self.nodes = {
            number: Node(app, Context(RUN, number, config, RecordDict(), {}), true_bytes)
            for number, (app, config) in enumerate(zip(handlers, settings, strict=True), 1)
        }
        self.tamper: Callable[[int, Any], Any] = lambda node, reply: reply
        self.spoil: Callable[[int, Any], Any] = lambda node, request: request
        self.replies: dict[str, Any] = {}
        self.up = self.down = 0
        self.numbers = itertools.count()
        self.pushes = 0
        self.true_bytes = true_bytes

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *arguments: Any, **named: Any) -> Any:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        self.pushes += 1
        ids = []
        for message in messages:
            node = self.nodes[message.metadata.dst_node_id]
            arrived, size = self._carry(message)
            self.down += size
            ids.append(arrived.metadata.message_id)
            request = self.spoil(message.metadata.dst_node_id, arrived)
            if request is None:
                continue
            reply = self.tamper(message.metadata.dst_node_id, node.answer(request))
            if reply is not None:
                self.replies[ids[-1]], size = self._carry(reply)
                self.up += size
        return ids

    def _carry(self, message: Any) -> tuple[Any, int]:
        if self.true_bytes:
            return through_bytes(message)
        carried = copy.copy(message)
        carried.__dict__.update(message.__dict__)
        carried.__dict__["_metadata"] = copy.copy(message.metadata)
        carried.metadata.__dict__["_message_id"] = f"{next(self.numbers)}"
        if message.has_content():
            carried.content = RecordDict({name: record.copy() for name, record in message.content.items()})
        return carried, 0

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        return [self.replies.pop(name) for name in message_ids if name in self.replies]

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
        return self.pull_messages(self.push_messages(messages))
