"""The sessions that Flower's grid carries: which node is which party, and the messages of each round."""

from __future__ import annotations

import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flwr.app import Message, RecordDict

from secagg.errors import Aborted, ConfigError
from secagg.integrations._flower_records import reply_of, write
from secagg.integrations._shared.hosted import Party
from secagg.integrations._shared.rounds import SILENT, Channel, Rounds
from secagg.integrations._shared.sessions import INTRODUCTION
from secagg.roles.outcome import Outcome
from secagg.roles.server import Server
from secagg.task import Task

log = logging.getLogger("flwr.secagg")

_SLACK = 600.0  # a message's time to live in seconds; Flower drops it if clocks differ by more


class NodeRounds(Rounds):
    """Plays a session for each train broadcast, with the nodes that it is for.

    - ``grid``: Flower's own; ``poll``: the seconds between two looks for answers.
    - ``parties``: the task's aggregators or decryptors, as id → callable from bytes to bytes or None.

    The other arguments are those of the base class.
    """

    def __init__(
        self, grid: Any, task: Task, *, parties: Mapping[str, Party], poll: float, **arguments: Any
    ) -> None:
        super().__init__("flower", task, parties=parties, **arguments)
        self.parties = dict(parties)
        self.ids: dict[int, str] = {}  # node → the id that it claims
        self.proven: dict[str, int] = {}  # id → the node whose signed answer was accepted
        self._grid, self._poll, self._log = grid, poll, log

    def play(self, number: int, broadcast: list[Any], model: bytes, request: bytes, timeout: float) -> Outcome:
        """Play round ``number``; ``Aborted`` if it comes to no sum.

        ``model`` and ``request`` are the digests of what the train messages in ``broadcast`` have in common, and
        ``timeout`` bounds each round of the session, in seconds.
        """
        message = broadcast[0].metadata
        members = self._introduce([each.metadata.dst_node_id for each in broadcast], message.message_type)
        session, attempt = self._sessions.open(message.run_id, number, model=model, request=request)
        fields = {"session": session, "number": number, "attempt": attempt}
        return self._play(members, session, model, _Messages(self, members, fields, broadcast, timeout))

    def exchange(
        self, queue: list[Any], seconds: float, done: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Any]]:
        """Push the messages in ``queue``, also later ones, and yield each reply with the node of its request.

        The source in a reply can't be used, because Flower answers in place of a node that is gone.
        """
        end = time.monotonic() + seconds
        waiting: dict[str, int] = {}  # message id → node
        while True:
            waiting |= self.push(queue)
            replies = list(self._grid.pull_messages(list(waiting))) if waiting else []
            for reply in replies:
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is not None:
                    yield node, reply
            if not queue and (not waiting or done() or time.monotonic() >= end):
                return
            if not replies and not queue:
                time.sleep(self._poll)

    def push(self, queue: list[Any]) -> dict[str, int]:
        """Push all messages of the queue to Flower; returns message id → node."""
        if not queue:
            return {}
        messages = queue.copy()
        queue.clear()
        ids = list(self._grid.push_messages(messages))
        if len(ids) != len(messages):
            raise Aborted(f"Flower took {len(ids)} of {len(messages)} messages; they may be too large for it")
        return {i: message.metadata.dst_node_id for i, message in zip(ids, messages, strict=True) if i}

    def _introduce(self, nodes: list[int], kind: str) -> dict[str, list[int]]:
        """The nodes of each party, by id. New nodes are asked who they are.

        A node only claims an id. If two claim the same, both get its messages, until one has signed as that party.
        """
        silent = {node for node in nodes if node not in self.ids}
        questions = [Message(RecordDict(write(self.task)), node, kind, ttl=_SLACK) for node in sorted(silent)]
        for node, reply in self.exchange(questions, self.seconds(INTRODUCTION)):
            silent.discard(node)
            try:
                statement = reply_of(reply, self.task)
                self._check_introduction(statement, statement.party)
                self.ids[node] = statement.party
            except ConfigError as error:
                self._left_out[f"node {node}"] = str(error)
        self._left_out |= {f"node {node}": SILENT for node in silent}
        members: dict[str, list[int]] = defaultdict(list)
        for node in nodes:
            if node in self.ids:
                members[self.ids[node]].append(node)
        proven = ((party, self.proven.get(party)) for party in members)
        return {party: [node] if node in members[party] else members[party] for party, node in proven}


class _Messages(Channel):
    """The messages of one session: to nodes in Flower's queue, to parties by a call of their function."""

    def __init__(
        self,
        rounds: NodeRounds,
        members: Mapping[str, list[int]],
        fields: Mapping[str, Any],
        broadcast: list[Any],
        timeout: float,
    ) -> None:
        self._rounds, self._members, self._fields, self._timeout = rounds, members, fields, timeout
        self._like = broadcast[0].metadata
        self._broadcast = {message.metadata.dst_node_id: message for message in broadcast}
        self._carriers: Mapping[int, Any] = {}  # node → the train message that the next message to it travels in
        self._queue: list[Any] = []  # messages to nodes
        self._answered: deque[tuple[str, bytes | Exception]] = deque()  # by the parties that are not nodes
        self._met: set[str] = set()  # parties that were sent a message
        self._seconds = 0.0  # of the open round

    def open(self, outbox: Mapping[str, bytes], name: str, *, takes_inputs: bool) -> None:
        usual = self._timeout if takes_inputs else None
        self._seconds = min(self._timeout, self._rounds.seconds(name, usual))
        self._carriers = self._broadcast if takes_inputs else {}
        self.send(outbox)
        self._carriers = {}

    def send(self, outbox: Mapping[str, bytes]) -> None:
        records: dict[int, Any] = {}  # one object for a message to many nodes, so that Flower stores it once
        self._met.update(outbox)
        for party, data in outbox.items():
            if party in self._rounds.parties:
                self._call(party, data)
                continue
            if id(data) not in records:
                records[id(data)] = write(self._rounds.task, data, **self._fields)
            for node in self._members.get(party, []):
                carrier = self._carriers.get(node)
                own, ttl = ({}, _SLACK) if carrier is None else (dict(carrier.content), carrier.metadata.ttl)
                content = RecordDict({**own, **records[id(data)]})
                kind, group = self._like.message_type, self._like.group_id
                self._queue.append(Message(content, node, kind, ttl=ttl, group_id=group))

    def _call(self, party: str, data: bytes) -> None:
        try:
            answer: bytes | Exception | None = self._rounds.parties[party](data)
        except Exception as error:
            answer = error
        if answer is not None:
            self._answered.append((party, answer))

    def answers(self, server: Server[Any]) -> Iterator[tuple[str, bytes | Exception]]:
        yield from self._of_parties()
        for node, reply in self._rounds.exchange(self._queue, self._seconds, lambda: not server.pending):
            party = self._rounds.ids[node]
            try:
                data = reply_of(reply, self._rounds.task, party).data
            except ConfigError as error:
                yield party, error
                continue
            yield party, data
            if party not in server.pending:  # the server has accepted the signature
                self._rounds.proven.setdefault(party, node)
            yield from self._of_parties()

    def _of_parties(self) -> Iterator[tuple[str, bytes | Exception]]:
        while self._answered:  # the server may pass one party's answer on to another, which answers at once
            yield self._answered.popleft()

    def dismiss(self, outbox: Mapping[str, bytes]) -> None:
        self.send({party: outbox[party] for party in self._met & set(outbox)})
        self._rounds.push(self._queue)  # nodes' answers to an abort don't matter
