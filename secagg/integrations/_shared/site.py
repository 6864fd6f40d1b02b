"""A site in one run: its party, and the update that waits in its process until the protocol asks for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secagg import warming
from secagg._rounds import session_name
from secagg.errors import Aborted, ConfigError, EncodingError, LocalProtocolError, RemoteProtocolError
from secagg.integrations._shared.digests import arrays_digest
from secagg.integrations._shared.hosted import HostedRole, check_settings
from secagg.integrations._shared.metrics import check_model, metrics_of
from secagg.integrations._shared.party import Party, RefusalError, privately, without_detail
from secagg.integrations._shared.statements import Statement, read, refuse, write
from secagg.task import Task

Arrays = Mapping[str, NDArray[Any]]

_PLACE = "secagg.json in the folder local of its workspace, or in the file that SECAGG_SITE names"

_COMPILING: dict[bytes, threading.Thread] = {}  # by the task's digest; a simulator plays several sites in a process
_STARTING = threading.Lock()


@dataclass(repr=False)  # an object that could reach a log must not print its arrays
class Training:
    """A train request, and what the training has left."""

    number: int
    model: bytes  # digests
    request: bytes
    before: Arrays
    after: Arrays | None = None
    metrics: Mapping[str, Any] | None = None


class Quiet(logging.LoggerAdapter[logging.Logger]):
    """A log of a site's own matters, with nothing above WARNING: stacks send their errors to the server."""

    def log(self, level: int, *arguments: Any, **named: Any) -> None:
        """See :meth:`logging.LoggerAdapter.log`."""
        super().log(min(level, logging.WARNING), *arguments, **named)


class Site:
    """A site in one run: takes a request, keeps the result of the training, and answers the server's messages.

    - ``task``: the task with its metrics.
    - ``stack``, ``run``: name the sessions and count the uploads.
    - ``settings``: what the site's operator has set, as in
      :class:`~secagg.integrations._shared.party.Party`.
    - ``weighted_by``: the name of the metric that is the weight, if the task has a ``max_weight``.

    The task's kernels are compiled in a thread of their own. ``ConfigError`` for settings that don't fit.
    """

    def __init__(
        self, task: Task, name: str, *, stack: str, run: str, settings: Mapping[str, Any], weighted_by: str
    ) -> None:
        self.task, self.name, self.stack, self.weighted_by = task, name, stack, weighted_by
        self.settings = settings
        self.log = Quiet(logging.getLogger(f"secagg.{stack}"))
        with privately(self.log):
            self.party = Party(
                task=task, stack=stack, run=run, party=name, config=settings, memory={}, log=self.log,
                weighted_by=weighted_by,
                forgets="the memory of a job's process does not stop a site from contradicting itself",
            )  # fmt: skip
            self._parties = dict(settings.get("parties", {}))
            for hosted, own in self._parties.items():
                check_settings(hosted, {"secagg-roster": settings.get("secagg-roster")} | own)
        self.training: Training | None = None  # the newest that has ended
        self._closed = False
        self._hosts: dict[str, HostedRole] = {}
        self._lock = threading.Lock()
        self._warm = compiling(task)
        self._named = False

    def take(self, number: int, arrays: Arrays, request: bytes) -> Training:
        """Take the model of a request, before anything may change it; ``request`` is the digest of all else.

        Returns the request for :meth:`keep`. A stack may run two trainings at once, so the caller must keep what
        belongs together. ``ConfigError`` for settings that don't fit the task, and unless the arrays have the names
        and shapes of the task's layout.
        """
        self.training = None
        if self._closed:
            raise ConfigError("got a request after the end of the job, or in a job with two tasks")
        self.party.check_keys(_PLACE)
        self.party.check_storage()
        check_model(arrays, self.task)
        copied = {name: np.array(array) for name, array in arrays.items()}
        return Training(number, arrays_digest(self.stack, copied), request, copied)

    def keep(self, training: Training, after: Arrays, metrics: Mapping[str, Any]) -> None:
        """Keep the model that a training returned, and its metrics; ``ConfigError`` for what can't be encoded."""
        metrics = {name: _number(value) for name, value in metrics.items()}
        self.party.update(training.before, after, metrics)  # to refuse here what could not be sent later
        self.party.weight(metrics)
        counted = {*metrics_of(self.task), *([self.weighted_by] if self.task.max_weight is not None else [])}
        if (names := sorted(set(metrics) - counted)) and not self._named:
            self._named = True
            self.log.warning(
                "secagg: withheld from the server: %s; to aggregate metrics, name them in metrics=, and to weigh "
                "sites by %s, give the task a max_weight",
                ", ".join(names),
                self.weighted_by,
            )
        self._warm.join()  # in the time of the training, because the protocol's rounds are short
        training.after, training.metrics = {name: np.array(array) for name, array in after.items()}, metrics
        if not self._closed:
            self.training = training

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a message of the server: the protocol's bytes, or a refusal that the server may read."""
        with self._lock:
            return self.refusing(lambda: self._answer(read(message, self.task)))

    def refusing(self, answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What ``answer`` returns, or for an error a refusal that has nothing private to the site."""
        try:
            with without_detail(self.log):
                return answer()
        except (Aborted, LocalProtocolError, RemoteProtocolError) as error:
            self.log.error("secagg: this site leaves the session: %s", error)
            return refuse("this site has left the session; its log says why")
        except (RefusalError, EncodingError) as error:
            self.log.error("secagg: this site takes no part: %s", error)
            return refuse(str(error))
        except (Exception, SystemExit) as error:  # a script may end by sys.exit()
            unexpected = not isinstance(error, ConfigError)
            self.log.error("secagg: this site takes no part: %s", error, exc_info=unexpected)
            return refuse("this site can't take part; its log says why")

    def close(self) -> None:
        """Forget the update, and release the ledgers of the parties that this site hosts; it answers no more."""
        self._closed, self.training = True, None
        with self._lock:
            for role in self._hosts.values():
                role.close()

    def _answer(self, statement: Statement) -> dict[str, Any]:
        if self._closed:
            raise RefusalError("got a message after this site has left the job; its log says why")
        if statement.party:
            return self._host(statement)
        training = self.training
        if training is None or training.after is None or training.metrics is None:
            raise RefusalError("got a message for a session, and no update of this site waits for one")
        number, attempt = statement.number, statement.attempt
        name = session_name(self.stack, number, attempt, model=training.model, request=training.request)
        if number != training.number or statement.session != name:
            raise RefusalError(
                "got another model, round, run, header or meta than this session was opened for, so nothing was "
                "sent; use no filter that changes the model on its way, and send all sites the same request"
            )
        if not statement.data:
            roster = self.party.check()
            if self.party.has_uploaded(name):
                raise RefusalError(
                    "got a session that this site has answered before; if this is a simulation, whose jobs have "
                    "one id, give the sites a new secagg-dir for each run"
                )
            return write(self.task, roster=roster)
        answer = self.party.answer(name, statement.data)
        if answer is None:
            answer = self.party.contribute(name, statement.data, training.before, training.after, training.metrics)
        return write(self.task, session=name, data=answer)

    def _host(self, statement: Statement) -> dict[str, Any]:
        """The answer of a party that this site hosts, by the settings of the site's operator."""
        name = statement.party
        if name not in self._hosts:
            if name not in self._parties:
                raise RefusalError(
                    f"got a message for party {name!r:.80}, which this site does not host; set it under parties in "
                    "the site's settings, or name the site that hosts it in the server's parties="
                )
            with privately(self.log):
                settings = {"secagg-roster": self.party.config.get("secagg-roster")} | self._parties[name]
                self._hosts[name] = HostedRole(self.task, name, settings)
        role = self._hosts[name]
        if not statement.data:
            self._warm.join()
            return write(self.task, roster=role.roster)
        return write(self.task, session=statement.session, data=role.answer(statement.data) or b"")


def _number(value: Any) -> Any:
    """A number of NumPy's, or a tensor that is one, as Python's; else the value itself."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def compiling(task: Task) -> threading.Thread:
    """The thread that compiles the kernels of ``task`` in this process, started by the first call."""
    with _STARTING:
        if task.digest not in _COMPILING:
            _COMPILING[task.digest] = threading.Thread(target=warm, args=[task], daemon=True)
            _COMPILING[task.digest].start()
        return _COMPILING[task.digest]


def warm(task: Task) -> None:
    """Compile the kernels of ``task``, without a line in the log about the small sessions that this plays."""
    own = threading.get_ident()

    def is_of_others(record: logging.LogRecord) -> bool:
        return record.thread != own

    log = logging.getLogger("secagg")
    log.addFilter(is_of_others)
    try:
        warming.warm(task)
    finally:
        log.removeFilter(is_of_others)
