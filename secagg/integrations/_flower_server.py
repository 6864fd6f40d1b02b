"""The server's side: a grid that turns a train broadcast into a session and returns one reply, with the mean."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from secagg._numbers import real
from secagg.beacon import Fetch
from secagg.errors import ConfigError, shown
from secagg.identity import Roster, load_roster
from secagg.integrations._flower_records import (
    arrays_of,
    is_train,
    model_digest,
    only_record,
    request_digest,
    rounds_in,
)
from secagg.integrations._flower_rounds import NodeRounds
from secagg.integrations._flower_strategies import check_strategy, running_strategy
from secagg.integrations._shared.hosted import Party
from secagg.integrations._shared.metrics import check_model, with_metrics, without_metrics
from secagg.integrations._shared.rounds import SECONDS
from secagg.roles.outcome import Outcome
from secagg.task import Task

_SIMULATED_SECONDS = 600.0  # of a round, unless deadlines= says more


class SecureGrid(Grid):  # type: ignore[misc]
    """A grid for ``strategy.start(grid=SecureGrid(grid, task), ...)``; run by the ServerApp.

    - ``metrics``: as in :func:`client_mod`.
    - ``roster``: a roster or its path, if the task's threat model needs one.
    - ``parties``: the task's aggregators or decryptors, as id → callable from bytes to bytes or None. The callable
      keeps its own time limit, and an error from it counts as silence. See :func:`hosted`.
    - ``run_config``: the ServerApp's ``context.run_config``. A node takes part only if its own is the same, because
      the run config steers an app as the records of a request do.
    - ``deadlines``: the seconds that a round of the protocol may take, one number or by name. Else it has 60
      seconds, or 600 in Flower's simulation, where Ray has to start and nodes wait for processors. In the round
      ``"Introduction"`` new nodes say who they are. The round in which clients train has the strategy's
      ``timeout`` unless it is named. Late parties are left out of the sum.
    - ``poll``: the seconds between two looks for answers.
    - ``executor`` and ``beacon``: as in :meth:`secagg.Task.server`.
    - ``strategies``: classes of your own that work with a single reply that holds the weighted mean.

    An argument that does not fit the task, and a strategy that needs single updates, are refused (``ConfigError``)
    before anything is sent. A round that fails is one ERROR line and returns no replies, so the strategy keeps its
    model. After two rounds that asked for updates from one model, the next round over it is ``Aborted``, because
    nodes send no third upload.

    ``outcomes`` has the outcomes of the rounds that succeeded, ``failures`` the ERROR lines of the others. If every
    round failed, the strategy's result holds no model, and an app that uses it ends in a ``KeyError``: look at
    ``outcomes`` first.
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
        _check_arguments(parties=parties, strategies=strategies, run_config=run_config, poll=poll)
        self.roster = roster if roster is None or isinstance(roster, Roster) else load_roster(roster)
        self._rounds = NodeRounds(
            grid,
            self.task,
            roster=self.roster,
            parties=parties or {},
            poll=poll,
            deadlines={} if deadlines is None else deadlines,
            usual=_SIMULATED_SECONDS if _simulates(grid) else SECONDS,
            beacon=beacon,
            executor=executor,
        )
        self._grid, self._strategies = grid, tuple(strategies)
        self._run_config = dict(run_config or {})
        self._count = 0

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of the rounds that succeeded; the newest alone keeps its mean and sum."""
        return self._rounds.outcomes

    @property
    def failures(self) -> list[str]:
        """A line for each round that failed."""
        return self._rounds.failures

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
        """See ``Grid``; a train broadcast has one reply, with the weighted mean, or none if the round aborted."""
        broadcast, seconds = list(messages), math.inf if timeout is None else timeout
        if not any(map(is_train, broadcast)):
            return [reply for _, reply in self._rounds.exchange(broadcast, seconds)]
        strategy = check_strategy(running_strategy(), self._strategies)
        weighted_by = getattr(strategy, "weighted_by_key", "num-examples")
        self._count += 1
        number = next(iter(rounds_in(broadcast[0])), self._count)  # not each strategy writes it
        outcome = self._rounds.noted(number, {}, lambda: self._attempt(number, broadcast, seconds))
        if outcome is None:
            return []
        return [Message(self._synthesise(outcome, _model_in(broadcast[0]), weighted_by), reply_to=broadcast[0])]

    def _attempt(self, number: int, broadcast: list[Any], timeout: float) -> Outcome:
        model, request = self._check(broadcast)
        return self._rounds.play(number, broadcast, model, request, timeout)

    def _check(self, broadcast: list[Any]) -> tuple[bytes, bytes]:
        """The digests of the model in all messages, and of their other content."""
        models = {id(record): record for record in map(_model_in, broadcast)}
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
        check_model(arrays_of(_model_in(broadcast[0])), self.task)
        return digests.pop(), requests.pop()

    def _synthesise(self, outcome: Outcome, model: Any, weighted_by: str) -> Any:
        """The content of the one reply that the strategy gets: the model moved by the mean."""
        mean, metrics = without_metrics(outcome.mean, self.task)
        arrays = {name: Array(np.asarray(old + mean[name])) for name, old in arrays_of(model).items()}
        values = metrics | {weighted_by: outcome.total_weight}
        return RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(values)})


def _model_in(message: Any) -> Any:
    """The record with the model; ``ConfigError`` unless there is one."""
    return only_record(message.content.array_records, "array records in a train message")


def _check_arguments(*, parties: Any, strategies: Any, run_config: Any, poll: Any) -> None:
    """``ConfigError`` for an argument of :class:`SecureGrid` of another kind than it takes."""
    functions = parties.values() if isinstance(parties, Mapping) else [parties]
    if parties is not None and not all(map(callable, functions)):
        raise ConfigError(
            f"got parties={shown(parties)}; expected the party's id and a function from bytes to bytes or None, "
            "such as {'dec': ask}"
        )
    if run_config is not None and not isinstance(run_config, Mapping):
        raise ConfigError(f"got run_config={shown(run_config)}; expected the ServerApp's context.run_config")
    if not isinstance(strategies, Iterable) or isinstance(strategies, type):
        raise ConfigError(f"got strategies={shown(strategies)}; expected a list of classes, such as [MyStrategy]")
    if not 0 < real(poll) < math.inf:
        raise ConfigError(f"got poll={shown(poll)}; expected seconds, more than 0")


def _simulates(grid: Any) -> bool:
    """Whether ``grid`` is that of Flower's simulation."""
    return type(grid).__name__ == "InMemoryGrid" and type(grid).__module__.startswith("flwr.")
