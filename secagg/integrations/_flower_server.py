"""The server's side: a grid that turns a train broadcast into a session and returns one reply with the mean."""

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
    UPLOADS_OF_A_MODEL,
    arrays_of,
    metric_key,
    metrics_of,
    model_digest,
    only_record,
    reply_of,
    request_digest,
    session_name,
    with_metrics,
    write,
)
from secagg.integrations._flower_strategies import check_strategy, running_strategy
from secagg.integrations._hosted import Party
from secagg.roles.outcome import Outcome
from secagg.roles.server import Outbox, Server
from secagg.session import roster_digest
from secagg.table import contribution_round
from secagg.task import Task

log = logging.getLogger("flwr.secagg")

INTRODUCTION = "Introduction"

_MUCH_CLIPPED = 0.01
_SLACK = 600.0  # seconds that clocks may differ, beyond which Flower takes a message for expired


class SecureGrid(Grid):  # type: ignore[misc]
    """A grid for ``strategy.start(grid=SecureGrid(grid, task), ...)``; run by the ServerApp.

    ``metrics`` as in :func:`client_mod`. ``roster`` (one, or its path) where the task's threat model needs it.
    ``parties`` answer for the aggregators or decryptors of the task: id → callable, bytes to bytes or None,
    that owns its time limit; an error from it is silence. See :func:`hosted`.

    ``run_config`` is the ServerApp's ``context.run_config``: a node takes part only if its own is the same, since
    it steers an app as the request's records do.

    ``deadlines`` is the seconds that a round of the protocol may take, one number for all or by the round's
    name (``"Introduction"``: nodes that are met for the first time say who they are); the round in which
    clients train has the strategy's ``timeout`` unless it is named. Who is late is dropped. ``poll`` is the time
    between two looks for answers.

    A strategy that needs individual updates is refused (``ConfigError``) before anything is sent. ``strategies``
    are classes of your own that do with one reply which holds the weighted mean. A round that can't be
    carried to its end is one ERROR line, and no replies: the strategy keeps its model. After two such rounds
    over one model a third is ``Aborted``, for nodes give no third upload.

    ``outcomes`` are those of the sessions that ended well, ``failures`` the ERROR lines of the others. Where every
    round failed the strategy's result holds no model, and an app that goes on with it ends in a ``KeyError``: look
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
        deadlines: float | Mapping[str, float] = 60.0,
        poll: float = 0.1,
        executor: Executor | None = None,
        beacon: Fetch | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.task = with_metrics(task, metrics)
        self.roster = roster if roster is None or isinstance(roster, Roster) else load_roster(roster)
        self.task.protocol.validate_roster(self.task, self.roster)
        self.parties = dict(parties or {})
        others = () if self.roster is None else (self.roster.ids(role) for role in self.task.protocol.others)
        if missing := sorted({party for ids in others for party in ids} - set(self.parties)):
            raise ConfigError(f"got no parties= for {', '.join(missing)}, whom {self.task.protocol.name} needs")
        self.outcomes: list[Outcome] = []
        self.failures: list[str] = []
        self._grid, self._strategies, self._poll = grid, tuple(strategies), poll
        self._named = dict(deadlines) if isinstance(deadlines, Mapping) else {}
        self._usual = 60.0 if isinstance(deadlines, Mapping) else float(deadlines)
        self._executor, self._beacon = executor, beacon
        self._run_config = dict(run_config or {})
        self._ids: dict[int, str] = {}  # by node, as it said
        self._proven: dict[str, int] = {}  # the node whose answer was taken under an id
        self._sessions: dict[bytes, int] = {}  # that asked for updates from a model
        self._names: set[bytes] = set()  # of sessions
        self._left_out: dict[str, str] = {}  # why, by party or node; of the running round
        self._count = 0

    # What a strategy asks a grid for.

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
        """See ``Grid``; ``ConfigError`` if it is a strategy that asks, and one that can't work."""
        check_strategy(running_strategy(), self._strategies, required=False)
        return self._grid.get_node_ids()

    def get_nodes(self) -> Any:
        """See ``Grid``."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Any]) -> Any:
        """See ``Grid``; ``ConfigError`` for train messages, which go through ``send_and_receive`` only."""
        pushed = list(messages)
        if any(map(_is_train, pushed)):
            raise ConfigError("got a train message pushed past the protocol; use send_and_receive")
        return self._grid.push_messages(pushed)

    def pull_messages(self, message_ids: Iterable[str]) -> Any:
        """See ``Grid``."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> Any:
        """The replies; to a train broadcast one that holds the weighted mean, or none if the round was aborted."""
        sent = list(messages)
        if not any(map(_is_train, sent)):
            return [reply for _, reply in self._exchange(sent, math.inf if timeout is None else timeout)]
        strategy = check_strategy(running_strategy(), self._strategies)
        weighted_by = getattr(strategy, "weighted_by_key", "num-examples")
        self._count += 1
        number = _round_of(sent[0], self._count)
        self._left_out = {}
        try:
            model, digest, request = self._check(sent)
            outcome = self._aggregate(sent, digest, request, number, math.inf if timeout is None else timeout)
        except (Aborted, ConfigError, EncodingError) as error:
            self.failures.append(f"round {number} aborted: {error}{self._without()}")
            log.error("secagg: %s", self.failures[-1])
            if isinstance(error, _Exhausted):
                raise
            return []
        if self._left_out:
            log.warning("secagg: round %d went on%s", number, self._without())
        level, clipped = _clipping(outcome, self.task)
        log.log(level, "secagg: round %d: %d updates in the sum%s", number, len(outcome.survivors), clipped)
        self.outcomes.append(outcome)
        return [Message(self._synthesise(outcome, model, weighted_by), reply_to=sent[0])]

    def _check(self, sent: list[Any]) -> tuple[Any, bytes, bytes]:
        """The model that all messages carry, its digest, and that of the rest of their content."""
        what = "array records in a train message"
        models = {id(found): found for found in (only_record(m.content.array_records, what) for m in sent)}
        digests = {model_digest(found) for found in models.values()}  # mostly all are one object
        if len(digests) > 1:
            raise ConfigError("got train messages with different models; one session has one model")
        distinct = {(m.metadata.message_type, id(m.content)): m.content for m in sent}  # mostly one object again
        requests = {request_digest(kind, content, self._run_config) for (kind, _), content in distinct.items()}
        if len(requests) > 1:
            raise ConfigError(
                "got train messages that differ in type or records; one session has one request, or a server could "
                "single a client out: send all nodes the same, and keep what is a node's own in its node config"
            )
        model, digest = next(iter(models.values())), digests.pop()
        found = {name: array.shape for name, array in arrays_of(model).items()}
        riding = set(map(metric_key, metrics_of(self.task)))
        wanted = {leaf.name: leaf.shape for leaf in self.task.layout.leaves if leaf.name not in riding}
        if odd := sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)):
            name = odd[0]
            raise ConfigError(
                f"got a model whose array {name!r} has shape {found.get(name)}; the task's layout says "
                f"{wanted.get(name)}: a model of other shapes needs a new task"
            )
        return model, digest, requests.pop()

    def _aggregate(self, sent: list[Any], digest: bytes, request: bytes, number: int, timeout: float) -> Outcome:
        carriers = {message.metadata.dst_node_id: message for message in sent}
        members = self._introduce(list(carriers), sent[0].metadata.message_type)
        if self._sessions.setdefault(digest, 0) >= UPLOADS_OF_A_MODEL:
            raise _Exhausted(f"{UPLOADS_OF_A_MODEL} sessions asked for updates from this model; nodes give no more")
        attempt, run = 1, sent[0].metadata.run_id
        while (name := session_name(run, number, attempt, digest, request)) in self._names:
            attempt += 1
        self._names.add(name)
        server = self.task.server(
            sorted(members), roster=self.roster, session=name, executor=self._executor, beacon=self._beacon
        )
        session = _Session(
            server, members, {"session": name, "number": number, "attempt": attempt}, sent[0].metadata
        )
        try:
            outbox = server.start()
            while server.outcome is None:
                asks_input = server.round == contribution_round(self.task.protocol)
                self._sessions[digest] += asks_input
                seconds = min(timeout, self._named.get(str(server.round), timeout if asks_input else self._usual))
                self._play(session, outbox, carriers if asks_input else {}, seconds)
                outbox = self._close(server)
        except Aborted as aborted:
            self._deliver(session, {p: aborted.outbox[p] for p in session.met & set(aborted.outbox)}, {})
            self._push(session.queue)  # nobody waits for what a node says to that
            raise
        finally:
            for fault in server.faults:
                detail = f": {fault.detail}" if fault.detail else ""
                self._left_out.setdefault(fault.sender, f"{fault.kind} in {fault.round}{detail}")
        return server.outcome

    def _introduce(self, nodes: list[int], kind: str) -> dict[str, list[int]]:
        """Who is behind which nodes, by party; those that are new are asked.

        A node only claims an id: where two claim one, both are asked, and who signs right is taken.
        """
        fresh = [node for node in nodes if node not in self._ids]
        asked = [Message(RecordDict(write(self.task)), node, kind, ttl=_SLACK) for node in fresh]
        silent = set(fresh)
        for node, reply in self._exchange(asked, self._named.get(INTRODUCTION, self._usual)):
            silent.discard(node)
            try:
                stated = reply_of(reply, self.task)
                if stated.roster != roster_digest(self.roster):
                    raise ConfigError("got another roster; give server and clients the same")
                party = check_party_id(stated.party)
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
        """One round of the protocol: until nobody is pending, nobody is left to wait for, or the time is up."""
        server = session.server
        pending = server.pending  # a node that was dropped waits for nothing, so it is told nothing
        self._deliver(session, {party: outbox[party] for party in outbox if party in pending}, carriers)
        for node, reply in self._exchange(session.queue, seconds, lambda: not server.pending):
            party = self._ids[node]
            try:
                data = reply_of(reply, self.task, party).data
            except ConfigError as error:
                self._left_out[party] = str(error)
                continue
            more = server.receive(party, data)
            if party not in server.pending:
                self._proven.setdefault(party, node)
            self._deliver(session, more, {})

    def _deliver(self, session: _Session, outbox: Mapping[str, bytes], carriers: Mapping[int, Any]) -> None:
        """Hand over what parties get, and their answers to the server; put into the queue what nodes get."""
        written: dict[int, Any] = {}  # what goes to many is one object, which Flower then stores once
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
            if id(data) not in written:
                written[id(data)] = write(self.task, data, **session.fields)
            for node in session.members.get(party, []):
                carrier = carriers.get(node)
                own, ttl = ({}, _SLACK) if carrier is None else (dict(carrier.content), carrier.metadata.ttl)
                content = RecordDict({**own, **written[id(data)]})
                kind, group = session.like.message_type, session.like.group_id
                session.queue.append(Message(content, node, kind, ttl=ttl, group_id=group))

    def _close(self, server: Server[Any]) -> Outbox:
        """Close the round; where a beacon must speak first, wait for it."""
        end = time.monotonic() + self._usual
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
        """Push what is in ``queue``, now or while this runs, and yield replies with the nodes that were asked.

        A reply's own source is no help: where a node is gone, Flower answers in its place.
        """
        end = time.monotonic() + seconds
        todo: dict[str, int] = {}
        while True:
            todo |= self._push(queue)
            replies = list(self._grid.pull_messages(list(todo))) if todo else []
            for reply in replies:
                node = todo.pop(reply.metadata.reply_to_message_id, None)
                if node is not None:
                    yield node, reply
            if not queue and (not todo or done() or time.monotonic() >= end):
                return
            if not replies and not queue:
                time.sleep(self._poll)

    def _push(self, queue: list[Any]) -> dict[str, int]:
        """Empty the queue into Flower; the nodes by their messages' ids."""
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
        moved = {name: Array(np.asarray(old + mean[name])) for name, old in arrays_of(model).items()}
        metrics = {name: float(mean[metric_key(name)]) for name in metrics_of(self.task)}
        metrics |= {weighted_by: outcome.total_weight}
        return RecordDict({"arrays": ArrayRecord(moved), "metrics": MetricRecord(metrics)})

    def _without(self) -> str:
        """Who is missing and why, those with one reason together; for the log."""
        reasons: dict[str, list[str]] = defaultdict(list)
        for who, why in self._left_out.items():
            reasons[why].append(who)
        ordered = {why: sorted(who, key=lambda name: (len(name), name)) for why, who in reasons.items()}
        told = "; ".join(f"{', '.join(who)}: {why}" for why, who in ordered.items())
        return f", without {told}" if told else ""


@dataclass
class _Session:
    """What a session is driven with."""

    server: Server[Any]
    members: Mapping[str, list[int]]
    fields: Mapping[str, Any]
    like: Any  # the metadata of a train message
    queue: list[Any] = field(default_factory=list)  # messages to nodes
    met: set[str] = field(default_factory=set)


class _Exhausted(Aborted):
    """Nodes would refuse whatever follows."""


def _clipping(outcome: Outcome, task: Task) -> tuple[int, str]:
    """How loud a round's line is, and the share of coordinates that clients cut to the encoding's clip."""
    if not outcome.clipped:  # none, or nobody counts them
        return logging.INFO, ""
    share = outcome.clipped / (len(outcome.survivors) * task.layout.size)
    text = f", {100 * share:.3g} % of their coordinates clipped"
    if share <= _MUCH_CLIPPED:
        return logging.INFO, text
    return logging.WARNING, f"{text}, so that the mean is too small: raise the encoding's clip in the task"


def _is_train(message: Any) -> bool:
    return bool(message.metadata.message_type.split(".")[0] == "train")


def _round_of(message: Any, count: int) -> int:
    """The strategy's round, or else how many train broadcasts there were."""
    found = [
        record["server-round"] for record in message.content.config_records.values() if "server-round" in record
    ]
    return int(found[0]) if found else count
