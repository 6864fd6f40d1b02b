"""One party's part in a session: its files, its role between two messages, and what leaves in its name.

A stack calls this for each message of the server. The role is saved after each answer and restored for the next, so
each message may be answered in a process of its own.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp import PrivacyLedger
from secagg._rounds import SECOND_UPLOAD, count_upload, was_counted
from secagg.errors import Aborted, ConfigError, EncodingError, LocalProtocolError, RemoteProtocolError
from secagg.identity import load_he_key, load_identity, load_roster
from secagg.integrations._shared import budget as budgets
from secagg.integrations._shared.metrics import metric_key, metrics_of
from secagg.roles.client import Client
from secagg.session import roster_digest
from secagg.store import FileLedger, FileStore, Ledger
from secagg.task import Task

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class RefusalError(ConfigError):
    """A refusal whose text the server may read, because it contains nothing private to the node."""


@dataclass(kw_only=True)
class Party:
    """A client of one task, on its own machine.

    - ``task``: the task with its metrics, as :func:`~secagg.integrations._shared.metrics.with_metrics` returns it.
    - ``stack``, ``run``: uploads of a model are counted within them.
    - ``party``: this client's id.
    - ``config``: what the machine's operator has set, by the names ``secagg-key``, ``secagg-roster``,
      ``secagg-dir``, ``secagg-he-key``, ``secagg-epsilon`` and ``secagg-delta``. It must not come from the server.
    - ``memory``: where state and ledger are kept without a ``secagg-dir``, and ``forgets``, why this memory does
      not stop a client from contradicting itself, which ends an error.
    - ``weighted_by``: the name of the metric that is the integer weight, if the task has a ``max_weight``.

    ``ConfigError`` if a key or a roster can't be read.
    """

    task: Task
    stack: str
    run: str
    party: str
    config: Mapping[str, Any]
    memory: MutableMapping[str, Any]
    forgets: str
    log: Log
    weighted_by: str = "num-examples"
    keys: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.keys = {
            "identity": load_identity(config["secagg-key"]) if "secagg-key" in config else None,
            "roster": load_roster(config["secagg-roster"]) if "secagg-roster" in config else None,
        }
        if "secagg-he-key" in config:
            self.keys["key"] = load_he_key(config["secagg-he-key"])

    def check(self) -> bytes:
        """The digest of the roster; ``ConfigError`` for a config with which this client can't take part.

        Makes the folder if it does not exist. That is safe only here, before the client has sent anything.
        """
        with privately(self.log):
            config = self.config
            if "secagg-dir" in config:
                _make_folder(Path(config["secagg-dir"]), self.log)
            if budgets.is_budgeted(config):
                with _ledger(config) as ledger:
                    self.keys["budget"] = budgets.open_budget(config, self.task, ledger)
            self.task.client(self.party, **self.keys)
        return roster_digest(self.keys["roster"])

    def check_keys(self, place: str) -> None:
        """``ConfigError`` for a config without a key or a roster, where the task needs them; ``place`` has both."""
        protocol = self.task.protocol
        missing = [name for name in ("secagg-key", "secagg-roster") if name not in self.config]
        needed = protocol.threat_model != "semi-honest" or protocol.party_counts
        if missing and (needed or len(missing) == 1):
            raise ConfigError(
                f"got settings without {' and '.join(missing)}; set the paths of {self.party}'s key and the roster "
                f'in {place}, or neither and SecAgg(threat_model="semi-honest") in the task'
            )

    def check_storage(self) -> None:
        """``ConfigError`` if the client could contradict what it sent, and the threat model forbids that."""
        model = self.task.protocol.threat_model
        if model != "semi-honest" and "secagg-dir" not in self.config:
            raise ConfigError(
                f"got a task for a {model} server, and a node without secagg-dir in its config: set it, because "
                f"{self.forgets}"
            )

    def answer(self, session: bytes, data: bytes) -> bytes | None:
        """The answer to the server's message; None if it asks for the input, and there is none yet.

        An answer of ``b""`` means that the message needs none.
        """
        with self._role(session) as (client, _):
            try:
                return client.receive(data) or b""
            except LocalProtocolError:
                if client.contributed:  # the input may not leave, and training again would not change that
                    raise
                return None

    def contribute(
        self, session: bytes, data: bytes, before: Mapping[str, Any], after: Mapping[str, Any], metrics: Any
    ) -> bytes:
        """The answer to the server's request for the input, after the upload was counted.

        ``before`` and ``after`` are the model's arrays by name, as the server sent them and as training left them;
        the input is their difference. ``metrics`` (name → number) has the metrics of the task's sum and the weight.
        ``ConfigError`` if something is missing or the model's shapes have changed, and :class:`RefusalError` for a
        third upload over one model.
        """
        update = self.update(before, after, metrics)
        weight = self.weight(metrics)
        with self._role(session) as (client, ledger):
            self._count_upload(ledger, session)
            return client.answer(data, update, weight) or b""

    def update(self, before: Mapping[str, Any], after: Mapping[str, Any], metrics: Any) -> dict[str, Any]:
        """The update, with the metrics of the task's sum; ``EncodingError`` for values that are not finite."""
        if set(before) != set(after) or any(before[name].shape != after[name].shape for name in before):
            raise ConfigError(
                "got arrays from the training with other names or shapes than the model's; return the whole model"
            )
        update: dict[str, NDArray[Any] | float] = {
            name: np.subtract(after[name], old, dtype=np.result_type(after[name], old, np.float32))
            for name, old in before.items()
        }
        for name in metrics_of(self.task):
            if not isinstance(metrics.get(name), int | float):
                raise ConfigError(
                    f"got no number for metric {name!r}; return it from the training, or remove it from metrics="
                )
            update[metric_key(name)] = metrics[name]
        for name in sorted(update):
            if not np.isfinite(update[name]).all():
                raise EncodingError(
                    f"got an update with values that are not finite, the first in {name!r:.80}; look for what "
                    "makes the training diverge"
                )
        return update

    def withheld(self, metrics: Any) -> str:
        """A line for the log that names the metrics which are neither in the sum nor the weight; empty if none."""
        names = sorted(set(metrics) - {*metrics_of(self.task), self.weighted_by})
        if not names:
            return ""
        return f"withheld from the server: {', '.join(names)}; to aggregate them, name them in metrics="

    def weight(self, metrics: Any) -> int | None:
        """The weight of the update, None if the task has none.

        ``ConfigError`` unless it is a whole number, and ``EncodingError`` for one that the task does not allow.
        """
        most = self.task.max_weight
        if most is None:
            return None
        weight = metrics.get(self.weighted_by)
        if not isinstance(weight, int | float) or not float(weight).is_integer():
            raise ConfigError(
                f"got no whole number for {self.weighted_by!r}, which is the weight; return it from the training"
            )
        if not 1 <= weight <= most:
            raise EncodingError(
                f"got {self.weighted_by}={int(weight)} as the weight; the task allows 1 to {most}: raise "
                "its max_weight, or return a smaller number"
            )
        return int(weight)

    def _count_upload(self, ledger: Ledger, session: bytes) -> None:
        """Refuse a third upload from one model, because the sums of several sessions reveal their difference.

        Uploads are counted within a run: many runs may begin with the same model, and share the ledger.
        """
        try:
            count = count_upload(ledger, *self._counted_by, session=session)
        except ConfigError as refused:
            raise RefusalError(str(refused)) from None
        if count > 1:
            self.log.warning("secagg: %s", SECOND_UPLOAD)

    @property
    def _counted_by(self) -> tuple[str, str, bytes, str]:
        return f"secagg/v1/{self.stack}-upload", self.party, self.task.digest, self.run

    def has_uploaded(self, session: bytes) -> bool:
        """Whether the ledger in the folder counts an upload of this session, by this process or an earlier one."""
        with privately(self.log), _ledger(self.config) as ledger:
            return ledger is not None and was_counted(ledger, *self._counted_by, session=session)

    @contextmanager
    def _role(self, session: bytes) -> Iterator[tuple[Client[Any], Ledger]]:
        """The client of this session, restored or new, and its ledger, which is open inside the block."""
        config = self.config
        with privately(self.log), _ledger(config) as ledger, self._storage(session, ledger) as store:
            budget = self.keys["budget"] = (
                budgets.open_budget(config, self.task, ledger) if budgets.is_budgeted(config) else None
            )
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
                budgets.count_charges(budget, ledger)

    def _check_budget(self, budget: PrivacyLedger | None) -> None:
        """``RefusalError`` if the budget forbids this session's input, so that nobody trains for nothing."""
        encoder = self.task.encoder
        if budget is not None and budget.would_exceed(encoder.release(self.task.layout.size)):
            self.log.error(
                "secagg: of epsilon %.4g, only %.4g is left, which is less than a round costs",
                budget.epsilon,
                budget.left,
            )
            raise RefusalError(
                "got a request for a session, and this node's privacy budget does not allow another input; go on "
                "without it, or agree with its operator on a larger one"
            )

    @contextmanager
    def _storage(self, session: bytes, ledger: FileLedger | None) -> Iterator[Any]:
        if ledger is None:
            yield _Memory(self.memory, session)
            return
        folder = Path(self.config["secagg-dir"])
        path = folder / (hashlib.sha256(session).hexdigest()[:32] + ".state")
        yield FileStore(path, ledger=ledger)
        if path.exists():  # the role accepted a proposal; a forged message with a session's name saves no state
            for old in folder.glob("*.state*"):  # also unfinished files, which a crash leaves under other names
                if old != path:
                    old.unlink()  # of an earlier session; it may hold an update


@contextmanager
def privately(log: Log) -> Iterator[None]:
    """Keep errors about a node's config, files or budget in its log: the server must not see paths or numbers."""
    try:
        yield
    except (RefusalError, Aborted, LocalProtocolError, RemoteProtocolError, EncodingError):
        raise
    except Exception as error:
        unexpected = not isinstance(error, ConfigError | OSError)
        log.error("secagg: this node can't take part: %s: %s", type(error).__name__, error, exc_info=unexpected)
        raise RefusalError("this node can't take part with its config and files; its log says why") from None


@contextmanager
def without_detail(log: Log) -> Iterator[None]:
    """Keep errors about an update in this node's log, because a stack may send an error's text to the server."""
    try:
        yield
    except EncodingError as error:
        log.error("secagg: this update can't be encoded: %s", error)
        raise EncodingError("got an update that doesn't fit the task; this node's log says how") from None


class _Memory:
    """State and ledger in a stack's own memory, which is lost with the stack's process."""

    def __init__(self, record: MutableMapping[str, Any], session: bytes) -> None:
        self.record, self.session = record, session
        if "ledger" not in record:
            record["ledger"] = record["session"] = b""
        ledger = record["ledger"]
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


def _make_folder(path: Path, log: Log) -> None:
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
