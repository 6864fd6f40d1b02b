"""The node's side: a mod that answers the protocol's messages, and lets the app train when its input is due."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from secagg._rounds import session_name
from secagg.errors import Aborted, ConfigError, LocalProtocolError, RemoteProtocolError
from secagg.integrations._flower_frames import check_outermost, is_simulated
from secagg.integrations._flower_records import (
    announces,
    arrays_of,
    is_train,
    model_digest,
    only_record,
    read,
    request_digest,
    rounds_in,
    strip,
    write,
)
from secagg.integrations._shared.budget import check_unbudgeted
from secagg.integrations._shared.metrics import with_metrics
from secagg.integrations._shared.party import Party, privately, without_detail
from secagg.integrations._shared.statements import Statement
from secagg.task import Task

log = logging.getLogger("flwr.secagg")

MAX_VALUES = 64  # values and records, together, in a reply that is not aggregated
MAX_TEXT = 128  # characters of a name or a text in such a reply
_ROLE = "secagg.kept"  # the record with a node's role between two messages
_WARNINGS = "secagg.said"  # the record of the warnings that a node has logged


def client_mod(
    task: Task,
    *,
    metrics: Mapping[str, float] | None = None,
    weighted_by: str = "num-examples",
    simulated: Task | None = None,
) -> Callable[[Any, Any, Callable[[Any, Any], Any]], Any]:
    """The mod that hides each update from the server. It must be the first in ``ClientApp(mods=[...])``.

    The update is the difference from the model in the request, so the encoding's ``clip`` bounds that difference.
    ``metrics`` (name → bound) are added up in the same sum; other metrics of the app are withheld. ``weighted_by``
    names the metric that is the integer weight, if the task has a ``max_weight``. ``simulated`` is a weaker task
    that only nodes of Flower's simulation play: no server can move a SuperNode to it.

    Changes that a training makes to the node's context are kept. Evaluations and queries belong to no session. They
    run on a copy of the context, and their changes are dropped.

    The mod reads the node's config at each message:

    - ``secagg-id``: the party's id, by default ``node-`` and Flower's number.
    - ``secagg-key`` and ``secagg-roster``, both or none: the private key, as ``secagg keygen`` writes it, and the
      roster that this node pins.
    - ``secagg-dir``: a folder for state and ledger, which is made if its parent exists. Without it, they are in
      Flower's context and end with the SuperNode; this is a ``ConfigError`` unless the threat model is
      "semi-honest".
    - ``secagg-he-key``: the key that clients share, if the protocol has one.
    - ``secagg-epsilon`` and ``secagg-delta``: the budget (:class:`dp.PrivacyLedger`, in the folder) for everything
      that this node sends in all runs. Nothing leaves beyond it or under a task without noise, and answers to
      evaluations and queries only if ``secagg-evaluate`` is true.

    Raises an error, which Flower reports to the server, where the update would not be protected: for a train
    message that is not the protocol's, for another task or version, for another model, config or run config than
    the session is bound to, and for a mod outside of this one.
    """
    tasks = with_metrics(task, metrics), None if simulated is None else with_metrics(simulated, metrics)
    if tasks[0] == tasks[1]:
        raise ConfigError("got simulated= the task itself, so that no SuperNode would play it; expected another")

    def secagg_mod(message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        check_outermost()
        if not is_train(message):
            check_unbudgeted(context.node_config)
            return _let_pass(_without_trace(message, context, call_next))
        full_task, statement = _read(message.content, *tasks)
        strip(message.content)
        party = str(context.node_config.get("secagg-id", f"node-{context.node_id}"))
        with privately(log):
            node = _Node.of(full_task, weighted_by, party, context)
        node.check_keys("its node config, as in flower-supernode --node-config 'secagg-key=\"...\"'")
        node.check_storage()
        if not statement.session:
            return Message(RecordDict(write(full_task, party=party, roster=node.check())), reply_to=message)
        return node.respond(statement, message, call_next)

    return secagg_mod


def _read(content: Any, task: Task, simulated: Task | None) -> tuple[Task, Statement]:
    """The task that the server means, and its message; ``ConfigError`` if this node plays no such task.

    The server chooses ``simulated`` by its digest, so only where the node runs may decide whether it is played.
    """
    if simulated is not None and announces(content, simulated):
        if not is_simulated():
            raise ConfigError(
                "got the task for simulations, and a node outside of Flower's simulation; start the run with the "
                "task for SuperNodes"
            )
        return simulated, read(content, simulated)
    return task, read(content, task)


class _Node(Party):
    """One node during one message."""

    context: Any

    @classmethod
    def of(cls, task: Task, weighted_by: str, party: str, context: Any) -> _Node:
        """The node whose context this is; ``ConfigError`` if its key or roster can't be read."""
        node = cls(
            task=task,
            stack="flower",
            run=str(context.run_id),
            party=party,
            config=context.node_config,
            memory={} if "secagg-dir" in context.node_config else _kept(context),
            forgets=(
                "Flower's context, of which each process has a copy, does not stop a node from contradicting itself"
            ),
            log=log,
            weighted_by=weighted_by,
        )
        node.context = context
        return node

    def respond(self, statement: Statement, message: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        """The node's reply in a session; the app trains if its input is asked for and there is none yet."""
        try:
            answer = self.answer(statement.session, statement.data)
            if answer is None:
                model = self.check_request(statement, message)  # before the app may change it
                reply = call_next(message, self.context)
                if reply.has_error():
                    return reply
                with without_detail(log):
                    answer = self.train(statement, model, reply.content)
        except (Aborted, LocalProtocolError, RemoteProtocolError) as error:
            log.error("secagg: this node leaves the session: %s", error)
            raise Aborted("this node has left the session; its log says why") from None
        return Message(RecordDict(write(self.task, answer, party=self.party)), reply_to=message)

    def check_request(self, statement: Statement, message: Any) -> dict[str, Any]:
        """The model's arrays; ``ConfigError`` unless the session is bound to all that the training gets."""
        content, context = message.content, self.context
        model = only_record(content.array_records, "array records in a request")
        request = request_digest(message.metadata.message_type, content, context.run_config)
        numbers = context.run_id, statement.number, statement.attempt
        name = session_name("flower", *numbers, model=model_digest(model), request=request)
        if statement.session != name or set(rounds_in(message)) - {statement.number}:
            raise ConfigError(
                "got another model, round, run, type, record or run config than this session was opened for; "
                "nothing was sent: pass run_config=context.run_config to SecureGrid, and do not change requests"
            )
        return arrays_of(model)

    def train(self, statement: Statement, before: Mapping[str, Any], content: Any) -> bytes:
        """The answer with this node's input, after the upload was counted; ``content`` is the app's reply."""
        after = arrays_of(only_record(content.array_records, "array records in the reply"))
        metrics = only_record(content.metric_records, "metric records in the reply")
        if withheld := self.withheld(metrics):
            self._warn_once("withheld", withheld)
        return self.contribute(statement.session, statement.data, before, after, metrics)

    def _warn_once(self, what: str, text: str) -> None:
        logged = dict(self.context.state.get(_WARNINGS, {}))
        if what not in logged:
            self.context.state[_WARNINGS] = ConfigRecord(logged | {what: True})
            log.warning("secagg: %s", text)


def _kept(context: Any) -> Any:
    """The record of the context in which a node without a folder keeps its role."""
    if _ROLE not in context.state:
        context.state[_ROLE] = ConfigRecord()
    return context.state[_ROLE]


def _without_trace(message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
    """The app's answer to a message outside of sessions, computed on a copy of its context that is dropped.

    No session is bound to such messages, and a server can send them to single nodes. If they changed the context,
    one node could train and the others not, in a session with the same request for all.
    """
    duplicate = copy.deepcopy(context)
    reply = call_next(message, duplicate)
    if duplicate != context:
        log.warning(
            "secagg: dropped the app's changes to its context during %s: only trainings keep changes",
            message.metadata.message_type,
        )
    return reply


def _let_pass(reply: Any) -> Any:
    """Let only a few single values pass: answers to evaluations and queries are not protected."""
    if not reply.has_content():
        return reply
    values = 0
    for name, record in reply.content.items():
        values += 1 + len(record)  # names count, because they can carry data too
        texts = [name, *record, *(value for value in record.values() if type(value) is str)]
        single = all(type(value) in (bool, int, float, str) for value in record.values())
        if not single or values > MAX_VALUES or any(len(text) > MAX_TEXT for text in texts):
            log.error("secagg: held back a reply that is not aggregated, because of the contents of %.80r", name)
            raise ConfigError(
                f"got arrays, lists, bytes or too much in a reply that is not aggregated; secagg's mod lets "
                f"{MAX_VALUES} single values and records through, texts of {MAX_TEXT} characters, and nothing else"
            )
    return reply
