"""The node's side: a mod that answers the protocol's messages, and lets the app train when its input is due."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from dp import PrivacyLedger
from secagg._rounds import SECOND_UPLOAD, count_upload, session_name
from secagg.errors import Aborted, ConfigError, EncodingError, LocalProtocolError, RemoteProtocolError
from secagg.identity import load_he_key, load_identity, load_roster
from secagg.integrations._flower_budget import check_unbudgeted, count_charges, is_budgeted, open_budget
from secagg.integrations._flower_frames import check_outermost
from secagg.integrations._flower_records import (
    Statement,
    arrays_of,
    is_train,
    metric_key,
    metrics_of,
    model_digest,
    only_record,
    read,
    request_digest,
    strip,
    with_metrics,
    without_detail,
    write,
)
from secagg.roles.client import Client
from secagg.session import roster_digest
from secagg.store import FileLedger, FileStore, Ledger
from secagg.task import Task

log = logging.getLogger("flwr.secagg")

MAX_VALUES = 64  # values and records, together, in a reply that is not aggregated
MAX_TEXT = 128  # characters of a name or a text in such a reply
_ROLE = "secagg.kept"  # the record with a node's role between two messages
_WARNINGS = "secagg.said"  # the record of the warnings that a node has logged


def client_mod(
    task: Task, *, metrics: Mapping[str, float] | None = None, weighted_by: str = "num-examples"
) -> Callable[[Any, Any, Callable[[Any, Any], Any]], Any]:
    """The mod that hides each update from the server. It must be the first in ``ClientApp(mods=[...])``.

    The update is the difference from the model in the request, so the encoding's ``clip`` bounds that difference.
    ``metrics`` (name → bound) are added up in the same sum; other metrics of the app are withheld. ``weighted_by``
    names the metric that is the integer weight, if the task has a ``max_weight``.

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
    full_task = with_metrics(task, metrics)
    names = metrics_of(full_task)

    def secagg_mod(message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        check_outermost()
        if not is_train(message):
            check_unbudgeted(context.node_config)
            return _let_pass(_without_trace(message, context, call_next))
        statement = read(message.content, full_task)
        strip(message.content)
        party = str(context.node_config.get("secagg-id", f"node-{context.node_id}"))
        with _privately():
            node = _Node(full_task, names, weighted_by, party, context)
        node.check_storage()
        if not statement.session:
            return Message(RecordDict(write(full_task, party=party, roster=node.check())), reply_to=message)
        try:
            answer = node.answer(statement)
            if answer is None:
                model = node.check_request(statement, message)  # before the app may change it
                reply = call_next(message, context)
                if reply.has_error():
                    return reply
                with without_detail(log):
                    answer = node.contribute(statement, model, reply.content)
        except (Aborted, LocalProtocolError, RemoteProtocolError) as error:
            log.error("secagg: this node leaves the session: %s", error)
            raise Aborted("this node has left the session; its log says why") from None
        return Message(RecordDict(write(full_task, answer, party=party)), reply_to=message)

    return secagg_mod


class RefusalError(ConfigError):
    """A refusal whose text the server may read, because it contains nothing private to the node."""


@contextmanager
def _privately() -> Iterator[None]:
    """Keep errors about a node's config, files or budget in its log: the server must not see paths or numbers."""
    try:
        yield
    except (RefusalError, Aborted, LocalProtocolError, RemoteProtocolError, EncodingError):
        raise
    except Exception as error:
        unexpected = not isinstance(error, ConfigError | OSError)
        log.error("secagg: this node can't take part: %s: %s", type(error).__name__, error, exc_info=unexpected)
        raise RefusalError("got a node that can't take part with its config and files; its log says why") from None


class _Node:
    """One node during one message."""

    def __init__(self, task: Task, metrics: list[str], weighted_by: str, party: str, context: Any) -> None:
        self.task, self.metrics, self.weighted_by = task, metrics, weighted_by
        self.party, self.context = party, context
        config = context.node_config
        self.keys: dict[str, Any] = {
            "identity": load_identity(config["secagg-key"]) if "secagg-key" in config else None,
            "roster": load_roster(config["secagg-roster"]) if "secagg-roster" in config else None,
        }
        if "secagg-he-key" in config:
            self.keys["key"] = load_he_key(config["secagg-he-key"])

    def check(self) -> bytes:
        """The digest of the roster; ``ConfigError`` for a config with which this node can't take part.

        Makes the folder if it does not exist. That is safe only here, before the node has sent anything.
        """
        with _privately():
            config = self.context.node_config
            if "secagg-dir" in config:
                _make_folder(Path(config["secagg-dir"]))
            if is_budgeted(config):
                with _ledger(config) as ledger:
                    self.keys["budget"] = open_budget(config, self.task, ledger)
            self.task.client(self.party, **self.keys)
        return roster_digest(self.keys["roster"])

    @contextmanager
    def role(self, session: bytes) -> Iterator[tuple[Client[Any], Ledger]]:
        """The client of this session, restored or new, and its ledger, which is open inside the block."""
        config = self.context.node_config
        with _privately(), _ledger(config) as ledger, _storage(self.context, session, ledger) as store:
            budget = self.keys["budget"] = open_budget(config, self.task, ledger) if is_budgeted(config) else None
            saved = store.load()
            if saved is None:
                client: Client[Any] = self.task.client(self.party, session=session, save=store, **self.keys)
                self._check_budget(budget)
            else:
                client = self.task.restore_client(saved, save=store, **self.keys)
            if client.id != self.party:
                raise ConfigError(f"got secagg-id={self.party}, and a session in which this node is {client.id}")
            yield client, store.ledger
            if budget is not None and ledger is not None:
                count_charges(budget, ledger)

    def _check_budget(self, budget: PrivacyLedger | None) -> None:
        """``RefusalError`` if the budget forbids this session's input, so that nobody trains for nothing."""
        encoder = self.task.encoder
        if budget is not None and budget.would_exceed(encoder.release(self.task.layout.size)):
            log.error(
                "secagg: of epsilon %.4g, only %.4g is left, which is less than a round costs",
                budget.epsilon,
                budget.left,
            )
            raise RefusalError(
                "got a request for a session, and this node's privacy budget does not allow another input; go on "
                "without it, or agree with its operator on a larger one"
            )

    def answer(self, statement: Statement) -> bytes | None:
        """The answer, or None if the request is for the input and there is none yet."""
        with self.role(statement.session) as (client, _):
            try:
                return client.receive(statement.data) or b""
            except LocalProtocolError:
                if client.contributed:  # the input may not leave, and training again would not change that
                    raise
                return None

    def check_request(self, statement: Statement, message: Any) -> dict[str, Any]:
        """The model's arrays; ``ConfigError`` unless the session is bound to all that the training gets."""
        content, context = message.content, self.context
        model = only_record(content.array_records, "array records in a request")
        rounds = {record["server-round"] for record in content.config_records.values() if "server-round" in record}
        request = request_digest(message.metadata.message_type, content, context.run_config)
        numbers = context.run_id, statement.number, statement.attempt
        name = session_name("flower", *numbers, model=model_digest(model), request=request)
        if statement.session != name or rounds - {statement.number}:
            raise ConfigError(
                "got another model, round, run, type, record or run config than this session was opened for; "
                "nothing was sent: pass run_config=context.run_config to SecureGrid, and do not change requests"
            )
        return arrays_of(model)

    def contribute(self, statement: Statement, before: Mapping[str, Any], content: Any) -> bytes:
        """The answer with this node's input, after the upload was counted; ``content`` is the app's reply."""
        after = arrays_of(only_record(content.array_records, "array records in the reply"))
        metrics = only_record(content.metric_records, "metric records in the reply")
        if set(before) != set(after) or any(before[name].shape != after[name].shape for name in before):
            raise ConfigError(
                "got arrays from the app with other names or shapes than the model's; return the whole model"
            )
        update: dict[str, Any] = {
            name: np.subtract(after[name], old, dtype=np.result_type(after[name], old, np.float32))
            for name, old in before.items()
        }
        for name in self.metrics:
            if not isinstance(metrics.get(name), int | float):
                raise ConfigError(
                    f"got no number for metric {name!r}; return it from the app, or remove it from metrics="
                )
            update[metric_key(name)] = metrics[name]
        weight = self._weight(metrics)
        self._name_withheld(metrics)
        with self.role(statement.session) as (client, ledger):
            self._count_upload(ledger, statement.session)
            return client.answer(statement.data, update, weight) or b""

    def _weight(self, metrics: Any) -> int | None:
        if self.task.max_weight is None:
            return None
        weight = metrics.get(self.weighted_by)
        if not isinstance(weight, int | float) or not float(weight).is_integer():
            raise ConfigError(
                f"got no whole number for {self.weighted_by!r}, which is the weight; return it from the app"
            )
        return int(weight)

    def _count_upload(self, ledger: Ledger, session: bytes) -> None:
        """Refuse a third upload from one model, because the sums of several sessions reveal their difference.

        Uploads are counted within a run: many runs may begin with the same model, and share the ledger.
        """
        run = str(self.context.run_id)
        try:
            count = count_upload(
                ledger, "secagg/v1/flower-upload", self.party, self.task.digest, run, session=session
            )
        except ConfigError as refused:
            raise RefusalError(str(refused)) from None
        if count > 1:
            log.warning("secagg: %s", SECOND_UPLOAD)

    def _name_withheld(self, metrics: Any) -> None:
        if withheld := sorted(set(metrics) - {*self.metrics, self.weighted_by}):
            self._warn_once(
                "withheld",
                f"withheld from the server: {', '.join(withheld)}; to aggregate them, name them in metrics=",
            )

    def check_storage(self) -> None:
        """``ConfigError`` if the node could contradict what it sent, and the threat model forbids that.

        Flower gives each process a copy of the context, so two processes at once do not know each other's messages.
        """
        model = self.task.protocol.threat_model
        if model != "semi-honest" and "secagg-dir" not in self.context.node_config:
            raise ConfigError(
                f"got a task for a {model} server, and a node without secagg-dir in its config: set it, because "
                "Flower's context, of which each process has a copy, does not stop a node from contradicting itself"
            )

    def _warn_once(self, what: str, text: str) -> None:
        logged = dict(self.context.state.get(_WARNINGS, {}))
        if what not in logged:
            self.context.state[_WARNINGS] = ConfigRecord(logged | {what: True})
            log.warning("secagg: %s", text)


class _ContextStore:
    """State and ledger in Flower's context, which outlives the process of a message but not the SuperNode."""

    def __init__(self, context: Any, session: bytes) -> None:
        record = context.state.get(_ROLE)
        self.record = ConfigRecord({"ledger": b"", "session": b""}) if record is None else record
        context.state[_ROLE] = self.record
        self.session = session
        ledger = self.record["ledger"]
        self.entries = {ledger[at : at + 32]: ledger[at + 32 : at + 64] for at in range(0, len(ledger), 64)}

    @property
    def ledger(self) -> Ledger:
        """The ledger. It lies beside the state, so both are lost together."""
        return self

    def claim(self, entry: bytes, value: bytes) -> bytes:
        """See :meth:`secagg.store.Ledger.claim`."""
        if entry not in self.entries:
            self.entries[entry] = value
            self.record["ledger"] += entry + value
        return bytes(self.entries[entry])

    def __call__(self, number: int, state: bytes) -> None:
        if self.record["session"] == self.session and number <= self.record["number"]:
            raise LocalProtocolError(f"got state number {number} after {self.record['number']}")
        self.record["session"], self.record["number"], self.record["state"] = self.session, number, state

    def load(self) -> bytes | None:
        """The newest state of this session, or None."""
        return bytes(self.record["state"]) if self.record["session"] == self.session else None


def _make_folder(path: Path) -> None:
    """Make a folder for its owner alone; ``RefusalError``, without the path, if that fails."""
    try:
        path.mkdir(mode=0o700)
        log.warning("secagg: made %s; if this node had a ledger before, restore it", path)
    except OSError as error:
        if not path.is_dir():
            log.error("secagg: secagg-dir does not exist and can't be made: %s", error)
            raise RefusalError(
                "got a node whose secagg-dir does not exist and can't be made; its operator has to make it, and "
                "its log says more"
            ) from None


@contextmanager
def _ledger(config: Mapping[str, Any]) -> Iterator[FileLedger | None]:
    """The ledger in the node's folder, locked inside the block; None for a node without a folder."""
    folder = config.get("secagg-dir")
    if folder is None:
        yield None
        return
    with FileLedger(Path(folder) / "ledger") as ledger:
        yield ledger


@contextmanager
def _storage(context: Any, session: bytes, ledger: FileLedger | None) -> Iterator[Any]:
    if ledger is None:
        yield _ContextStore(context, session)
        return
    folder = Path(context.node_config["secagg-dir"])
    path = folder / (hashlib.sha256(session).hexdigest()[:32] + ".state")
    yield FileStore(path, ledger=ledger)
    if path.exists():  # the role accepted a proposal; a forged message with a session's name saves no state
        for old in folder.glob("*.state*"):  # also unfinished files, which a crash leaves under other names
            if old != path:
                old.unlink()  # of an earlier session; it may hold an update


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
