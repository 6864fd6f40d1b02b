"""The server's side: a grid that turns a train broadcast into a session and returns one reply, with the mean."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from secagg.beacon import Fetch
from secagg.errors import Aborted, ConfigError, EncodingError, LocalProtocolError
from secagg.identity import PartyRole, Roster, check_party_id, load_roster
from secagg.integrations._flower_records import (
    arrays_of,
    is_train,
    model_digest,
    only_record,
    reply_of,
    request_digest,
    round_of,
    write,
)
from secagg.integrations._flower_strategies import check_strategy, running_strategy
from secagg.integrations._shared.hosted import Party
from secagg.integrations._shared.metrics import metric_key, metrics_of, shapes_of, with_metrics
from secagg.integrations._shared.sessions import (
    INTRODUCTION,
    Exhausted,
    Sessions,
    checked_deadlines,
    clipping,
    note_faults,
    without,
)
from secagg.roles.outcome import Outcome
from secagg.roles.server import Outbox, Server
from secagg.session import roster_digest
from secagg.table import contribution_round
from secagg.task import Task

log = logging.getLogger("flwr.secagg")

_SECONDS, _SIMULATED_SECONDS = 60.0, 600.0  # of a round, unless deadlines= says more
_SLACK = 600.0  # a message's time to live in seconds; Flower drops it if clocks differ by more


class SecureGrid(Grid):  # type: ignore[misc]
    """A grid for ``strategy.start(grid=SecureGrid(grid, task), ...)``; run by the ServerApp.

    - ``metrics``: as in :func:`client_mod`.
    - ``roster``: a roster or its path, if the task's threat model needs one.
    - ``parties``: the task's aggregators or decryptors, as id → callable from bytes to bytes or None. The callable
      keeps its own time limit, and an error from it counts as silence. See :func:`hosted`.
    - ``run_config``: the ServerApp's ``context.run_config``. A node takes part only if its own is the same, because
      the run config steers an app as the records of a request do.
    - ``deadlines``: the seconds that a round of the protocol may take, one number for all rounds or by name. Else a
      round has 60 seconds, or 600 in Flower's simulation, where Ray has to start and nodes wait for processors. In
      the round ``"Introduction"`` new nodes say who they are. The round in which clients train has the strategy's
      ``timeout`` unless it is named. Late parties are dropped.
    - ``poll``: the seconds between two looks for answers.
    - ``strategies``: classes of your own that work with a single reply that holds the weighted mean.

    A strategy that needs individual updates is refused (``ConfigError``) before anything is sent. A round that
    fails is one ERROR line and returns no replies, so the strategy keeps its model. After two such rounds over one
    model a third is ``Aborted``, because nodes send no third upload.

    ``outcomes`` has the outcomes of the sessions that succeeded, ``failures`` the ERROR lines of the others. If
    every round failed, the strategy's result holds no model, and an app that uses it ends in a ``KeyError``: look
    at ``outcomes`` first.
    """

    def __init__(
        self,
        grid: Any,
        task: Task,
        *,
        metrics: Mapping[str, float] | None = None,
        roster: Roster | str | os.PathLike[str] | None = None,
        parties: Mapping[str, Party] | None = None,
        strategies: Iterable[type] = (),
        deadlines: float | Mapping[str, float] | None = None,
        poll: float = 0.1,
        executor: Executor | None = None,
        beacon: Fetch | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.task = with_metrics(task, metrics)
        self.roster = roster if roster is None or isinstance(roster, Roster) else load_roster(roster)
        self.task.protocol.validate_roster(self.task, self.roster)
        self.parties = dict(parties or {})
        others = () if self.roster is None else (self.roster.ids(role) for role in self.task.protocol.party_counts)
        if missing := sorted({party for ids in others for party in ids} - set(self.parties)):
            raise ConfigError(f"got no parties= for {', '.join(missing)}, which {self.task.protocol.name} needs")
        self.outcomes: list[Outcome] = []
        self.failures: list[str] = []
        self._grid, self._strategies, self._poll = grid, tuple(strategies), poll
        usual = _SIMULATED_SECONDS if _simulates(grid) else _SECONDS
        seconds = checked_deadlines(usual if deadlines is None else deadlines, self.task)
        self._deadlines = seconds if isinstance(seconds, dict) else {}
        self._deadline = usual if isinstance(seconds, dict) else seconds
        self._executor, self._beacon = executor, beacon
        self._run_config = dict(run_config or {})
        self._ids: dict[int, str] = {}  # node → the id that it claims
        self._proven: dict[str, int] = {}  # id → the node whose signed answer was accepted
        self._sessions = Sessions("flower")
        self._left_out: dict[str, str] = {}  # party or node → why the running round goes on without it
        self._count = 0

    # The interface that a strategy uses.

    def set_run(self, run: Any) -> None:
        """See ``Grid``."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """See ``Grid``."""
        return self._grid.run

    def create_message(self, *arguments: Any, **named: Any) -> Any:
        """See ``Grid``."""
        return self._grid.create_message(*arguments, **named)

    def get_node_ids(self) -> Any:
        """See ``Grid``; ``ConfigError`` if the caller is a strategy that can't work."""
        check_strategy(running_strategy(), self._strategies, required=False)
        return self._grid.get_node_ids()

    def get_nodes(self) -> Any:
        """See ``Grid``."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Any]) -> Any:
        """See ``Grid``; ``ConfigError`` for train messages, which must go through ``send_and_receive``."""
        queue = list(messages)
        if any(map(is_train, queue)):
            raise ConfigError("got a train message pushed past the protocol; use send_and_receive")
        return self._grid.push_messages(queue)

    def pull_messages(self, message_ids: Iterable[str]) -> Any:
        """See ``Grid``."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Any:
        """The replies; for a train broadcast one reply with the weighted mean, or none if the round was aborted."""
        broadcast = list(messages)
        if not any(map(is_train, broadcast)):
            return [reply for _, reply in self._exchange(broadcast, math.inf if timeout is None else timeout)]
        strategy = check_strategy(running_strategy(), self._strategies)
        weighted_by = getattr(strategy, "weighted_by_key", "num-examples")
        self._count += 1
        number = round_of(broadcast[0], self._count)
        self._left_out = {}
        try:
            model, digest, request = self._check(broadcast)
            outcome = self._aggregate(broadcast, digest, request, number, math.inf if timeout is None else timeout)
        except (Aborted, ConfigError, EncodingError) as error:
            self.failures.append(f"round {number} aborted: {error}{without(self._left_out)}")
            log.error("secagg: %s", self.failures[-1])
            if isinstance(error, Exhausted):
                raise
            return []
        if self._left_out:
            log.warning("secagg: round %d went on%s", number, without(self._left_out))
        level, clipped = clipping(outcome, self.task)
        log.log(level, "secagg: round %d: %d updates in the sum%s", number, len(outcome.survivors), clipped)
        self.outcomes.append(outcome)
        return [Message(self._synthesise(outcome, model, weighted_by), reply_to=broadcast[0])]

    def _check(self, broadcast: list[Any]) -> tuple[Any, bytes, bytes]:
        """The model in all messages, its digest, and the digest of their other content."""
        what = "array records in a train message"
        models = {id(record): record for record in (only_record(m.content.array_records, what) for m in broadcast)}
        digests = {model_digest(record) for record in models.values()}  # usually there is one object
        if len(digests) > 1:
            raise ConfigError("got train messages with different models; one session has one model")
        distinct = {(m.metadata.message_type, id(m.content)): m.content for m in broadcast}  # here too
        requests = {request_digest(kind, content, self._run_config) for (kind, _), content in distinct.items()}
        if len(requests) > 1:
            raise ConfigError(
                "got train messages that differ in type or records; a session has one request, so that a server "
                "can't single out a client: send all nodes the same; put a node's own settings into its node config"
            )
        model, digest = next(iter(models.values())), digests.pop()
        shapes = {name: array.shape for name, array in arrays_of(model).items()}
        expected = shapes_of(self.task)
        names = sorted(shapes.keys() | expected.keys())
        if wrong := [name for name in names if shapes.get(name) != expected.get(name)]:
            name = wrong[0]
            raise ConfigError(
                f"got a model whose array {name!r} has shape {shapes.get(name)}; the task's layout says "
                f"{expected.get(name)}: a model of other shapes needs a new task"
            )
        return model, digest, requests.pop()

    def _aggregate(
        self, broadcast: list[Any], digest: bytes, request: bytes, number: int, timeout: float
    ) -> Outcome:
        carriers = {message.metadata.dst_node_id: message for message in broadcast}
        members = self._introduce(list(carriers), broadcast[0].metadata.message_type)
        run = broadcast[0].metadata.run_id
        name, attempt = self._sessions.open(run, number, model=digest, request=request)
        server = self.task.server(
            sorted(members), roster=self.roster, session=name, executor=self._executor, beacon=self._beacon
        )
        session = _Session(
            server, members, {"session": name, "number": number, "attempt": attempt}, broadcast[0].metadata
        )
        try:
            outbox = server.start()
            while server.outcome is None:
                asks_input = server.round == contribution_round(self.task.protocol)
                if asks_input:
                    self._sessions.asks_for_inputs(digest)
                seconds = min(
                    timeout, self._deadlines.get(str(server.round), timeout if asks_input else self._deadline)
                )
                self._play(session, outbox, carriers if asks_input else {}, seconds)
                outbox = self._close(server)
        except Aborted as aborted:
            self._deliver(
                session, {party: aborted.outbox[party] for party in session.met & set(aborted.outbox)}, {}
            )
            self._push(session.queue)  # nodes' answers to an abort don't matter
            raise
        finally:
            note_faults(server.faults, self._left_out)
        return server.outcome

    def _introduce(self, nodes: list[int], kind: str) -> dict[str, list[int]]:
        """The nodes of each party, by id. New nodes are asked who they are.

        A node only claims an id. If two claim the same, both get its messages, until one has signed as that party.
        """
        fresh = [node for node in nodes if node not in self._ids]
        questions = [Message(RecordDict(write(self.task)), node, kind, ttl=_SLACK) for node in fresh]
        silent = set(fresh)
        for node, reply in self._exchange(questions, self._deadlines.get(INTRODUCTION, self._deadline)):
            silent.discard(node)
            try:
                statement = reply_of(reply, self.task)
                if statement.roster != roster_digest(self.roster):
                    raise ConfigError("got another roster; give the server and all clients the same")
                party = check_party_id(statement.party)
                if self.roster is not None and party not in self.roster.ids(PartyRole.CLIENT):
                    raise ConfigError(f"got id {party}, which the roster doesn't list as a client")
                self._ids[node] = party
            except ConfigError as error:
                self._left_out[f"node {node}"] = str(error)
        self._left_out |= {f"node {node}": "no answer to the introduction" for node in silent}
        members: dict[str, list[int]] = defaultdict(list)
        for node in nodes:
            if node in self._ids:
                members[self._ids[node]].append(node)
        proven = ((party, self._proven.get(party)) for party in members)
        return {party: [node] if node in members[party] else members[party] for party, node in proven}

    def _play(self, session: _Session, outbox: Outbox, carriers: Mapping[int, Any], seconds: float) -> None:
        """Play one round of the protocol, until no party is pending, no node can answer, or the time is up."""
        server = session.server
        pending = server.pending  # nodes that were dropped don't wait, so they get no message
        self._deliver(session, {party: outbox[party] for party in outbox if party in pending}, carriers)
        for node, reply in self._exchange(session.queue, seconds, lambda: not server.pending):
            party = self._ids[node]
            try:
                data = reply_of(reply, self.task, party).data
            except ConfigError as error:
                self._left_out[party] = str(error)
                continue
            forwards = server.receive(party, data)
            if party not in server.pending:
                self._proven.setdefault(party, node)
            self._deliver(session, forwards, {})

    def _deliver(self, session: _Session, outbox: Mapping[str, bytes], carriers: Mapping[int, Any]) -> None:
        """Call the parties, and pass their answers to the server. Queue the messages to nodes."""
        records: dict[int, Any] = {}  # one object for a message to many nodes, so that Flower stores it once
        session.met.update(outbox)
        for party, data in outbox.items():
            if party in self.parties:
                try:
                    answer = self.parties[party](data)
                except Exception as error:
                    self._left_out[party] = f"{type(error).__name__}: {error}"
                    continue
                if answer is not None:
                    self._deliver(session, session.server.receive(party, answer), {})
                continue
            if id(data) not in records:
                records[id(data)] = write(self.task, data, **session.fields)
            for node in session.members.get(party, []):
                carrier = carriers.get(node)
                own, ttl = ({}, _SLACK) if carrier is None else (dict(carrier.content), carrier.metadata.ttl)
                content = RecordDict({**own, **records[id(data)]})
                kind, group = session.like.message_type, session.like.group_id
                session.queue.append(Message(content, node, kind, ttl=ttl, group_id=group))

    def _close(self, server: Server[Any]) -> Outbox:
        """Close the round. If it needs a value of the beacon, wait until that is published."""
        end = time.monotonic() + self._deadline
        while True:
            try:
                return server.close_round()
            except LocalProtocolError as error:
                if time.monotonic() > end:
                    raise Aborted(str(error)) from error
                time.sleep(self._poll)

    def _exchange(
        self, queue: list[Any], seconds: float, done: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, Any]]:
        """Push the messages in ``queue``, also later ones, and yield each reply with the node of its request.

        The source in a reply can't be used, because Flower answers in place of a node that is gone.
        """
        end = time.monotonic() + seconds
        waiting: dict[str, int] = {}  # message id → node
        while True:
            waiting |= self._push(queue)
            replies = list(self._grid.pull_messages(list(waiting))) if waiting else []
            for reply in replies:
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is not None:
                    yield node, reply
            if not queue and (not waiting or done() or time.monotonic() >= end):
                return
            if not replies and not queue:
                time.sleep(self._poll)

    def _push(self, queue: list[Any]) -> dict[str, int]:
        """Push all messages of the queue to Flower; returns message id → node."""
        if not queue:
            return {}
        messages = queue.copy()
        queue.clear()
        ids = list(self._grid.push_messages(messages))
        if len(ids) != len(messages):
            raise Aborted(f"Flower took {len(ids)} of {len(messages)} messages; they may be too large for it")
        return {i: message.metadata.dst_node_id for i, message in zip(ids, messages, strict=True) if i}

    def _synthesise(self, outcome: Outcome, model: Any, weighted_by: str) -> Any:
        """The content of the one reply that the strategy gets: the model moved by the mean."""
        mean = dict(outcome.mean)
        arrays = {name: Array(np.asarray(old + mean[name])) for name, old in arrays_of(model).items()}
        metrics = {name: float(mean[metric_key(name)]) for name in metrics_of(self.task)}
        metrics |= {weighted_by: outcome.total_weight}
        return RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})


@dataclass
class _Session:
    """A session that is played, and its queue."""

    server: Server[Any]
    members: Mapping[str, list[int]]
    fields: Mapping[str, Any]
    like: Any  # the metadata of a train message
    queue: list[Any] = field(default_factory=list)  # messages to nodes
    met: set[str] = field(default_factory=set)  # parties that were sent a message


def _simulates(grid: Any) -> bool:
    """Whether ``grid`` is that of Flower's simulation."""
    return type(grid).__name__ == "InMemoryGrid" and type(grid).__module__.startswith("flwr.")
