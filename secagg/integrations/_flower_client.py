"""The node's side: a mod that answers the protocol's messages, and has the app train when its input is due."""

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
from mpc.keys import encode_parts
from secagg.errors import Aborted, ConfigError, EncodingError, LocalProtocolError, RemoteProtocolError
from secagg.identity import load_he_key, load_identity, load_roster
from secagg.integrations._flower_budget import check_unbudgeted, count_charges, is_budgeted, open_budget
from secagg.integrations._flower_frames import check_outermost
from secagg.integrations._flower_records import (
    UPLOADS_OF_A_MODEL,
    Stated,
    arrays_of,
    metric_key,
    metrics_of,
    model_digest,
    model_of,
    only_record,
    read,
    request_digest,
    session_name,
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

MAX_VALUES = 64  # and records, in all, of a reply that is not aggregated
MAX_TEXT = 128  # characters of a name or a text in it
_KEPT = "secagg.kept"  # where a node's role is between two messages
_SAID = "secagg.said"  # which warnings a node has given


def client_mod(
    task: Task, *, metrics: Mapping[str, float] | None = None, weighted_by: str = "num-examples"
) -> Callable[[Any, Any, Callable[[Any, Any], Any]], Any]:
    """The mod that keeps each update from the server; the first in ``ClientApp(mods=[...])``.

    What is encoded is the difference from the model that came with the request, so the encoding's ``clip`` bounds
    an update. ``metrics`` (name → bound) ride in the same sum; any other that the app returns is withheld.
    ``weighted_by`` is the metric that is the integer weight, where the task has a ``max_weight``.

    What a training leaves in the node's context is kept. An evaluation or a query, which belongs to no session,
    runs on a copy of the context, and what it changes there is dropped.

    Read from the node's config at each message: ``secagg-id`` (by default ``node-`` and Flower's number),
    ``secagg-key`` (its private key, as ``secagg keygen`` writes it) and ``secagg-roster`` (the roster that this
    node pins), both or none; ``secagg-dir``, a folder for state and ledger (made if its parent is there), without
    which they live in Flower's context and end with the SuperNode: ``ConfigError`` then unless the threat model
    is "semi-honest".
    ``secagg-he-key`` is the key that clients share, where the protocol has one. ``secagg-epsilon`` and
    ``secagg-delta`` are the budget (:class:`dp.PrivacyLedger`, kept in the folder) of all that this node sends in
    all runs: past it nothing leaves, nor under a task without noise, nor an answer to an evaluation or a query,
    unless ``secagg-evaluate`` is true.

    Raises, and Flower then tells the server so, wherever it can't protect: a train message that is not the
    protocol's, another task or version, another model, config or run config than the session is bound to, a mod
    outside of this one.
    """
    own = with_metrics(task, metrics)
    riding = metrics_of(own)

    def secagg_mod(message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        check_outermost()
        if message.metadata.message_type.split(".")[0] != "train":
            check_unbudgeted(context.node_config)
            return _let_pass(_without_trace(message, context, call_next))
        stated = read(message.content, own)
        strip(message.content)
        party = str(context.node_config.get("secagg-id", f"node-{context.node_id}"))
        with _privately():
            node = _Node(own, riding, weighted_by, party, context)
        node.check_storage()
        if not stated.session:
            return Message(RecordDict(write(own, party=party, roster=node.check())), reply_to=message)
        try:
            answer = node.answer(stated)
            if answer is None:
                model = node.check_request(stated, message)  # before the app may change it
                trained = call_next(message, context)
                if trained.has_error():
                    return trained
                with without_detail(log):
                    answer = node.contribute(stated, model, trained.content)
        except (Aborted, LocalProtocolError, RemoteProtocolError) as error:
            log.error("secagg: this node leaves the session: %s", error)
            raise Aborted("this node has left the session; its log says why") from None
        return Message(RecordDict(write(own, answer, party=party)), reply_to=message)

    return secagg_mod


class RefusalError(ConfigError):
    """What a node refuses in words that the server may read, for they hold nothing of its own."""


@contextmanager
def _privately() -> Iterator[None]:
    """What is wrong with a node's config, files or budget stays in its log: a server gets no path and no number."""
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

    def __init__(self, task: Task, riding: list[str], weighted_by: str, party: str, context: Any) -> None:
        self.task, self.riding, self.weighted_by = task, riding, weighted_by
        self.party, self.context = party, context
        config = context.node_config
        self.known: dict[str, Any] = {
            "identity": load_identity(config["secagg-key"]) if "secagg-key" in config else None,
            "roster": load_roster(config["secagg-roster"]) if "secagg-roster" in config else None,
        }
        if "secagg-he-key" in config:
            self.known["key"] = load_he_key(config["secagg-he-key"])

    def check(self) -> bytes:
        """The digest of the roster; ``ConfigError`` for a config with which this node can't take part.

        The folder is made here, where the node has said nothing yet, if it is not there.
        """
        with _privately():
            config = self.context.node_config
            if "secagg-dir" in config:
                _make_folder(Path(config["secagg-dir"]))
            if is_budgeted(config):
                with _ledger(config) as ledger:
                    self.known["budget"] = open_budget(config, self.task, ledger)
            self.task.client(self.party, **self.known)
        return roster_digest(self.known["roster"])

    @contextmanager
    def role(self, session: bytes) -> Iterator[tuple[Client[Any], Ledger]]:
        """The client of this session, as it was left, or a new one; its ledger is open meanwhile."""
        config = self.context.node_config
        with _privately(), _ledger(config) as ledger, _storage(self.context, session, ledger) as store:
            budget = self.known["budget"] = open_budget(config, self.task, ledger) if is_budgeted(config) else None
            saved = store.load()
            if saved is None:
                found: Client[Any] = self.task.client(self.party, session=session, save=store, **self.known)
                self._check_budget(budget)
            else:
                found = self.task.restore_client(saved, save=store, **self.known)
            if found.id != self.party:
                raise ConfigError(f"got secagg-id={self.party}, and a session in which this node is {found.id}")
            yield found, store.ledger
            if budget is not None and ledger is not None:
                count_charges(budget, ledger)

    def _check_budget(self, budget: PrivacyLedger | None) -> None:
        """``RefusalError`` where this session's input would not leave, so that nobody waits or trains for it."""
        encoder = self.task.encoder
        if budget is not None and budget.would_exceed(encoder.release(self.task.layout.size)):
            log.error("secagg: of epsilon %.4g, %.4g is left, less than a round costs", budget.epsilon, budget.left)
            raise RefusalError(
                "got a request for a session, and this node's privacy budget does not allow another input; go on "
                "without it, or agree with its operator on a larger one"
            )

    def answer(self, stated: Stated) -> bytes | None:
        """The answer, or None if the input is asked for and was not given yet."""
        with self.role(stated.session) as (client, _):
            try:
                return client.receive(stated.data) or b""
            except LocalProtocolError:
                if client.contributed:  # it is the input that may not leave: to train again changes nothing
                    raise
                return None

    def check_request(self, stated: Stated, message: Any) -> dict[str, Any]:
        """The model's arrays; ``ConfigError`` unless the session was opened for all that training will get."""
        content, context = message.content, self.context
        model = only_record(content.array_records, "array records in a request")
        rounds = {record["server-round"] for record in content.config_records.values() if "server-round" in record}
        request = request_digest(message.metadata.message_type, content, context.run_config)
        name = session_name(context.run_id, stated.number, stated.attempt, model_digest(model), request)
        if stated.session != name or rounds - {stated.number}:
            raise ConfigError(
                "got another model, round, run, type, record or run config than this session was opened for; "
                "nothing was sent: give SecureGrid run_config=context.run_config, and let nothing change a request"
            )
        return arrays_of(model)

    def contribute(self, stated: Stated, before: Mapping[str, Any], trained: Any) -> bytes:
        """The answer with this node's input, once the model's uploads are counted."""
        after = arrays_of(only_record(trained.array_records, "array records in the reply"))
        metrics = only_record(trained.metric_records, "metric records in the reply")
        if set(before) != set(after) or any(before[name].shape != after[name].shape for name in before):
            raise ConfigError("got arrays of the app with other names or shapes than the model's; return all of it")
        update: dict[str, Any] = {
            name: np.subtract(after[name], old, dtype=np.result_type(after[name], old, np.float32))
            for name, old in before.items()
        }
        for name in self.riding:
            if not isinstance(metrics.get(name), int | float):
                raise ConfigError(f"got no number for metric {name!r}; the app must return it, or metrics= drop it")
            update[metric_key(name)] = metrics[name]
        weight = self._weight(metrics)
        self._name_withheld(metrics)
        with self.role(stated.session) as (client, ledger):
            self._count_upload(ledger, stated.session)
            client.contribute(update, weight)
            return client.receive(stated.data) or b""

    def _weight(self, metrics: Any) -> int | None:
        if self.task.max_weight is None:
            return None
        weight = metrics.get(self.weighted_by)
        if not isinstance(weight, int | float) or not float(weight).is_integer():
            raise ConfigError(f"got no whole number for {self.weighted_by!r}; the task weights by it")
        return int(weight)

    def _count_upload(self, ledger: Ledger, session: bytes) -> None:
        """Two sums that start from one model and differ in a client or two tell their difference.

        Counted within a run: each one may begin with the same model, and a ledger outlives them all.
        """
        taken = hashlib.sha256(session).digest()
        for count in range(1, UPLOADS_OF_A_MODEL + 1):
            run, model = str(self.context.run_id), model_of(session)
            entry = encode_parts("secagg/v1/flower-upload", self.party, self.task.digest, run, model, str(count))
            if ledger.claim(hashlib.sha256(entry).digest(), taken) == taken:
                break
        else:
            raise RefusalError(f"got a request for upload {count + 1} from one model; this node gives {count}")
        if count > 1:
            log.warning(
                "secagg: this is a second upload from one model: if both sessions end, the server can subtract the "
                "two sums, and sees the updates of those who are in one of them only"
            )

    def _name_withheld(self, metrics: Any) -> None:
        if withheld := sorted(set(metrics) - {*self.riding, self.weighted_by}):
            self._warn_once("withheld", f"withheld from the server: {', '.join(withheld)}; metrics= lets them ride")

    def check_storage(self) -> None:
        """``ConfigError`` where what this node has said can be taken back, and the threat model forbids it.

        Flower gives each process a copy of the context: of two at once, neither knows what the other says.
        """
        model = self.task.protocol.threat_model
        if model != "semi-honest" and "secagg-dir" not in self.context.node_config:
            raise ConfigError(
                f"got a task to hold against a {model} server, and a node without secagg-dir in its config: "
                "set it, for Flower's context, of which each process has a copy, holds no node to one story"
            )

    def _warn_once(self, what: str, text: str) -> None:
        said = dict(self.context.state.get(_SAID, {}))
        if what not in said:
            self.context.state[_SAID] = ConfigRecord(said | {what: True})
            log.warning("secagg: %s", text)


class _ContextStore:
    """State and ledger in Flower's context: it outlives a message's process, and ends with the SuperNode."""

    def __init__(self, context: Any, session: bytes) -> None:
        kept = context.state.get(_KEPT)
        self.kept = ConfigRecord({"ledger": b"", "session": b""}) if kept is None else kept
        context.state[_KEPT] = self.kept
        self.session = session
        ledger = self.kept["ledger"]
        self.entries = {ledger[at : at + 32]: ledger[at + 32 : at + 64] for at in range(0, len(ledger), 64)}

    @property
    def ledger(self) -> Ledger:
        """The ledger, beside the state: whoever loses one loses both."""
        return self

    def claim(self, entry: bytes, value: bytes) -> bytes:
        """See :meth:`secagg.store.Ledger.claim`."""
        if entry not in self.entries:
            self.entries[entry] = value
            self.kept["ledger"] += entry + value
        return bytes(self.entries[entry])

    def __call__(self, number: int, state: bytes) -> None:
        if self.kept["session"] == self.session and number <= self.kept["number"]:
            raise LocalProtocolError(f"got state number {number} after {self.kept['number']}")
        self.kept["session"], self.kept["number"], self.kept["state"] = self.session, number, state

    def load(self) -> bytes | None:
        """The newest state of this session, or None."""
        return bytes(self.kept["state"]) if self.kept["session"] == self.session else None


def _make_folder(path: Path) -> None:
    """For its owner alone; ``RefusalError``, without the path, where that can't be."""
    try:
        path.mkdir(mode=0o700)
        log.warning("secagg: made %s; a node that had a ledger before must get that one back", path)
    except OSError as error:
        if not path.is_dir():
            log.error("secagg: secagg-dir is not there and can't be made: %s", error)
            raise RefusalError(
                "got a node whose secagg-dir is not there and can't be made; its operator makes it, and its log "
                "says more"
            ) from None


@contextmanager
def _ledger(config: Mapping[str, Any]) -> Iterator[FileLedger | None]:
    """The ledger in the node's folder, held by nobody else meanwhile; None for a node that has none."""
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
    if path.exists():  # its proposal was taken: anyone can send a message that names a session
        for old in folder.glob("*.state*"):  # a crash leaves what it was about to save under another name
            if old != path:
                old.unlink()  # of a session that is over: it may hold an update


def _without_trace(message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
    """What the app answers outside of every session, on a copy of its context that is dropped.

    No session is bound to these messages, and a server sends them to whom it likes. What they left behind could
    have one node train and the others stand still, in a session whose request is the same for all.
    """
    aside = copy.deepcopy(context)
    reply = call_next(message, aside)
    if aside != context:
        log.warning(
            "secagg: dropped what the app changed in its context during %s: only trainings keep state",
            message.metadata.message_type,
        )
    return reply


def _let_pass(reply: Any) -> Any:
    """Evaluations and queries are not protected: single values leave in them, and nothing that holds an update."""
    if not reply.has_content():
        return reply
    values = 0
    for name, record in reply.content.items():
        values += 1 + len(record)  # a name holds as much as a text
        texts = [name, *record, *(value for value in record.values() if type(value) is str)]
        single = all(type(value) in (bool, int, float, str) for value in record.values())
        if not single or values > MAX_VALUES or any(len(text) > MAX_TEXT for text in texts):
            log.error("secagg: held back a reply that is not aggregated, for what is in %.80r", name)
            raise ConfigError(
                f"got arrays, lists, bytes or too much in a reply that is not aggregated; secagg's mod lets "
                f"{MAX_VALUES} single values and records and texts of {MAX_TEXT} characters through, nothing else"
            )
    return reply
