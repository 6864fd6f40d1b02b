"""The server's side in NVFlare: an aggregator, and a Collab server, that play the protocol after a training."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.collab import collab

from secagg._numbers import real
from secagg.errors import Aborted, ConfigError, shown
from secagg.identity import PartyRole, Roster
from secagg.integrations._flare_site import (
    CONFIG,
    MODEL,
    PLACEHOLDER,
    REQUEST,
    SERVER,
    STACK,
    request_digest,
)
from secagg.integrations._flare_ways_out import PUBLIC, TOPIC
from secagg.integrations._shared.digests import arguments_digest, arrays_digest, arrays_of
from secagg.integrations._shared.hosted import hosting_sites
from secagg.integrations._shared.metrics import check_model, metrics_of, with_metrics, without_metrics
from secagg.integrations._shared.sessions import agreeing, checked_deadlines
from secagg.integrations._shared.settings import roster_path, server_roster
from secagg.integrations._shared.site import compiling
from secagg.integrations._shared.site_rounds import SiteRounds
from secagg.integrations._shared.statements import as_refusal, read, task_text, write
from secagg.layout import Layout
from secagg.roles.outcome import Outcome
from secagg.task import Task


class _Played:
    """The outcomes of the rounds, of which there are none before the job runs."""

    _rounds: SiteRounds | None

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes of the rounds that succeeded; the newest alone keeps its mean and sum."""
        return [] if self._rounds is None else self._rounds.outcomes

    @property
    def failures(self) -> list[str]:
        """A line for each round that failed."""
        return [] if self._rounds is None else self._rounds.failures


class SecureAggregator(_Played, ModelAggregator):  # type: ignore[misc]
    """An aggregator for ``FedAvgRecipe(aggregator=...)`` that learns the mean of the updates, and no update.

    It takes nothing but the placeholders that :class:`SecureFilter` lets out. When all sites have trained, it plays
    the task's protocol with them over NVFlare's auxiliary channel, and returns the mean as a difference.

    - ``task``: a :class:`secagg.Task`, or base64 of its bytes, as a job's JSON has it.
    - ``roster``: the path of the roster on the server; by default ``secagg-roster`` in the server's settings.
    - ``metrics``: name → bound of its absolute value. They come out as weighted means; other metrics stay in the
      sites.
    - ``parties``: the task's aggregators or decryptors, as id → the site that hosts the role by its settings.
    - ``deadlines``: the seconds that a round of the protocol may take, one number or by name. In the round
      ``"Introduction"`` the sites say which roster they have. Sites that are late are left out of the sum.
    - ``key_metric``, ``key_metric_mode``: the metric by which the best model is chosen, and ``"max"`` or ``"min"``.

    A round that fails is one ERROR line, and the model stays as it is. After two such rounds over one model the job
    ends. ``ConfigError`` for a roster that is not a path, and for a ``key_metric`` that is not in the sum.
    """

    __module__ = PUBLIC

    def __init__(
        self,
        task: Task | str,
        roster: str | None = None,
        metrics: Mapping[str, float] | None = None,
        parties: Mapping[str, str] | None = None,
        deadlines: float | Mapping[str, float] = 60.0,
        *,
        key_metric: str = "",
        key_metric_mode: str = "max",
    ) -> None:
        super().__init__()
        self._full, self.task = task_text(task, metrics)
        self.roster, self.parties = roster_path(roster), hosting_sites(parties)
        self.deadlines = checked_deadlines(deadlines, self._full)
        if key_metric and key_metric not in metrics_of(self._full):
            raise ConfigError(
                f"got key_metric={key_metric!r}, which is not in the sum; name it in metrics= with a bound"
            )
        self.key_metric, self.key_metric_mode = key_metric, key_metric_mode
        self._rounds = None
        self._sent: Any = None  # the train request of this round
        self._asked: set[str] = set()  # sites that were asked to train
        self._trained: dict[str, str] = {}  # site → the digest of its job's config
        self._refused: dict[str, str] = {}  # sites whose result is no placeholder
        self._best: float | None = None

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """See NVFlare's ``FLComponent``."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.START_RUN:
            try:
                self._open(fl_ctx)
            except Exception as error:
                self.system_panic(f"secagg: {error}", fl_ctx)
        elif event_type == AppEventType.BEFORE_TRAIN_TASK:
            self._sent = fl_ctx.get_prop(AppConstants.TRAIN_SHAREABLE)
            if (peer := fl_ctx.get_peer_context()) is not None:
                self._asked.add(str(peer.get_identity_name()))

    def _open(self, fl_ctx: Any) -> None:
        """Read the roster, and compile kernels; ``ConfigError`` if the roster does not fit the task."""
        local = fl_ctx.get_engine().get_workspace().get_site_config_dir()
        self._rounds = SiteRounds(
            STACK,
            self._full,
            roster=server_roster(self.roster, str(fl_ctx.get_identity_name()), local, self._full),
            parties=self.parties,
            deadlines=self.deadlines,
            ask=self._ask,
            check_running=self._check_running,
        )
        compiling(self._full)

    def _ask(self, site: str, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        """A site's answer to a message over the auxiliary channel."""
        engine = self.fl_ctx.get_engine()
        with engine.new_context() as fl_ctx:
            replies = engine.send_aux_request([site], TOPIC, Shareable(message), seconds, fl_ctx)
        return _checked(dict(replies or {}).get(site))

    def _check_running(self) -> None:
        signal = self.fl_ctx.get_run_abort_signal()
        if signal is not None and signal.triggered:
            raise Aborted("NVFlare ends the job")

    def trains(self, site: str) -> bool:
        """Whether ``site`` (its name) may train: if there is a roster, it must list the site as a client."""
        roster = None if self._rounds is None else self._rounds.roster
        return roster is None or site in roster.ids(PartyRole.CLIENT)

    def reset_stats(self) -> None:
        """Begin a round."""
        self._sent, self._asked, self._trained, self._refused = None, set(), {}, {}

    def asks(self, sites: Iterable[str]) -> None:
        """Note the ``sites`` that a round asks to train, so that one which never fetches the model is named."""
        self._asked.update(sites)

    def accept_model(self, model: FLModel) -> None:
        """Note that a site has trained; ``model`` is its result.

        ``ConfigError`` for anything but the placeholder of its filter.
        """
        site = str((model.meta or {}).get("client_name"))
        params = model.params
        value: Any = params.get(PLACEHOLDER) if isinstance(params, dict) and len(params) == 1 else None
        if getattr(value, "shape", None) != (1,) or value[0] != 0 or model.metrics is not None:
            self._refused[site] = (
                "got a model in the clear; put SecureFilter last among the job's result filters, or use secured"
            )
            raise ConfigError(f"from {site}, which stays out of the round: {self._refused[site]}")
        self._trained[site] = str((model.meta or {}).get(CONFIG, ""))

    def aggregate_model(self) -> FLModel:
        """The weighted mean of the updates, as a difference; an empty difference if the round failed."""
        if self._rounds is None:
            raise ConfigError("got a round before the start of the run; use this aggregator in a job")
        if self._sent is None:
            raise Aborted("no site has asked for the model")
        params = from_shareable(self._sent).data
        check_model(arrays := arrays_of(params), self._full)
        job, task_name = str(self.fl_ctx.get_job_id()), str(self._sent.get_header(ReservedHeaderKey.TASK_NAME))
        config, others = agreeing(self._trained)
        silent = sorted(self._asked - self._trained.keys())
        outcome = self._rounds.play(
            int(self._sent.get_header(AppConstants.CURRENT_ROUND)),
            model=arrays_digest(STACK, arrays),
            request=request_digest(job, task_name, self._sent, config),
            sites=[site for site in self._trained if site not in others],
            left_out=others | dict.fromkeys(silent, "no result of the training; its log says why") | self._refused,
        )
        if outcome is None:
            return FLModel(params_type=ParamsType.DIFF, params={})
        return self._result(outcome, params)

    def _result(self, outcome: Outcome, params: Mapping[str, Any]) -> FLModel:
        """The mean as NVFlare's difference, in the kinds of array and the dtypes of the model."""
        mean, metrics = without_metrics(outcome.mean, self._full)
        layout = Layout.of(dict(params))
        difference = layout.restore(layout.flatten(mean, dtype="float64"), like=dict(params), dtype="like")
        self._choose(metrics)
        return FLModel(params_type=ParamsType.DIFF, params=difference, metrics=metrics or None)

    def _choose(self, metrics: Mapping[str, float]) -> None:
        """Tell NVFlare if the model that the sites got is the best one yet, by the mean of the sites' metric."""
        if not self.key_metric:
            return
        value = metrics[self.key_metric] * (-1 if self.key_metric_mode == "min" else 1)
        if self._best is None or value > self._best:
            self._best = value
            self.fl_ctx.set_prop(
                AppConstants.VALIDATION_RESULT, metrics[self.key_metric], private=True, sticky=False
            )
            self.fire_event(AppEventType.GLOBAL_BEST_MODEL_AVAILABLE, self.fl_ctx)


class SecureFedAvg(FedAvg):  # type: ignore[misc]
    """NVFlare's FedAvg that goes on without a site that fails or is slow.

    - ``training_seconds``: how long a training may take; 0 means without a limit. A slower site is left out.
    - ``args``, ``kwargs``: the arguments of NVFlare's ``FedAvg``.
    """

    __module__ = PUBLIC

    def __init__(self, *args: Any, training_seconds: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # by these two names NVFlare finds the arguments of the base class
        self.training_seconds = training_seconds

    def send_model(self, *arguments: Any, **named: Any) -> None:
        """See NVFlare's ``ModelController``."""
        self.aggregator.asks(named.get("targets") or ())
        super().send_model(*arguments, **{"timeout": self.training_seconds, **named})

    def sample_clients(self, num_clients: int | None = None) -> list[str]:
        """A random sample of the sites that train; those that only host a party are left out.

        ``num_clients`` is the number of sites to draw; None means all.
        """
        sites = [site for site in super().sample_clients() if self.aggregator.trains(site)]
        if num_clients is None or num_clients >= len(sites):
            return sites
        return random.sample(sites, num_clients)

    @classmethod
    def of(cls, controller: FedAvg, *, training_seconds: int) -> FedAvg:
        """Make a recipe's ``controller`` one of this class; ``ConfigError`` if it is not NVFlare's FedAvg itself.

        It keeps all that this release's recipe has set, also what this library does not know. ``training_seconds``
        is as in the constructor.
        """
        if type(controller) is not FedAvg:
            raise ConfigError(
                f"got a recipe with the controller {type(controller).__name__}, which may need more than the mean; "
                "expected NVFlare's FedAvg"
            )
        if not isinstance(controller.aggregator, SecureAggregator):
            raise ConfigError(
                f"got a recipe that puts {type(controller.aggregator).__name__} in the place of SecureAggregator; "
                "expected a recipe that passes on its aggregator="
            )
        controller.__class__ = cls
        controller._ignore_result_error = True  # a site whose filter refuses must not end the job
        controller.training_seconds = training_seconds
        return controller


def _checked(reply: Any) -> dict[str, Any]:
    """The message in a site's reply; ``ConfigError`` if NVFlare reports an error in its place."""
    code = "no answer" if reply is None else reply.get_return_code()
    if code != ReturnCode.OK:
        raise ConfigError(f"NVFlare reports {code!r:.80}; does the job have SecureFilter at this site?")
    return {name: value for name, value in reply.items() if name != ReservedHeaderKey.HEADERS}


class SecureServer(_Played):
    """A Collab server that learns the weighted mean of its clients' updates, and no update.

    Write ``class Server(SecureServer)`` with a ``@collab.main``, and in it, for each round,
    ``model, metrics = self.aggregate(model, ...)``. ``CollabRecipe(server=Server(TASK), client=Client(TASK))``.

    - ``task``: a :class:`secagg.Task`, or base64 of its bytes, as a job's JSON has it.
    - ``roster``: the path of the roster on the server; by default ``secagg-roster`` in the server's settings. The
      sites that it lists as clients train, and without a roster all sites.
    - ``metrics``: name → bound of its absolute value. They come out as weighted means; other metrics stay in the
      sites.
    - ``parties``: the task's aggregators or decryptors, as id → the site that hosts the role in its settings.
    - ``deadlines``: the seconds that a round of the protocol may take, one number or by name. In the round
      ``"Introduction"`` the sites say which roster they have. Sites that are late are left out of the sum.
    - ``training_seconds``: the time of a training. Sites that are late are left out of the round.
    - ``target``: the name of the client's Collab object, if a site has several.

    ``outcomes`` has the outcomes of the rounds that succeeded, ``failures`` the ERROR lines of the others.
    """

    def __init__(
        self,
        task: Task | str,
        roster: str | None = None,
        metrics: Mapping[str, float] | None = None,
        parties: Mapping[str, str] | None = None,
        deadlines: float | Mapping[str, float] = 60.0,
        training_seconds: float = 3600.0,
        target: str | None = None,
    ) -> None:
        bare, self.task = task_text(task, None)
        self._full, self.metrics = with_metrics(bare, metrics), None if metrics is None else dict(metrics)
        self.roster, self.parties = roster_path(roster), hosting_sites(parties)
        self.deadlines = checked_deadlines(deadlines, self._full)
        if not 0 < (seconds := real(training_seconds)) < math.inf:
            raise ConfigError(f"got training_seconds={shown(training_seconds)}; expected seconds, more than 0")
        self.training_seconds, self.target = seconds, target
        self._pinned: Roster | None = None
        self._sites: dict[str, Any] = {}
        self._rounds = None
        self._count = 0

    @collab.init  # type: ignore[untyped-decorator]
    def secagg_open(self) -> None:
        """Read the roster, and compile kernels; run by NVFlare. ``ConfigError`` if the roster does not fit."""
        self._pinned = server_roster(self.roster, SERVER, collab.workspace.get_site_config_dir(), self._full)
        self._sites = {client.name: client for client in collab.clients}
        self._rounds = SiteRounds(
            STACK,
            self._full,
            roster=self._pinned,
            parties=self.parties,
            deadlines=self.deadlines,
            ask=self._ask,
            check_running=_check_running,
        )
        compiling(self._full)

    def aggregate(self, model: Mapping[str, Any], /, **request: Any) -> tuple[dict[str, Any], dict[str, float]]:
        """Let all sites train, and move ``model`` by the weighted mean of their updates; run in ``@collab.main``.

        Each site calls ``train(model, **request)``. Returns the new model, with the kinds of array and the dtypes
        of ``model``, and the weighted means of the metrics. A round that fails is one ERROR line, and returns
        ``model`` as it is and no metrics; after two such rounds over one model, ``Aborted``. ``ConfigError`` if the
        model does not fit the task, or the request has a value that no session can be bound to.
        """
        if self._rounds is None:
            self.secagg_open()
        assert self._rounds is not None
        arrays = arrays_of(model)
        check_model(arrays, self._full)
        digest = arguments_digest(STACK, str(collab.fl_ctx.get_job_id()), model, request)
        number, self._count = self._count, self._count + 1
        sites, left_out = self._train(number, dict(model), request)
        outcome = self._rounds.play(
            number, model=arrays_digest(STACK, arrays), request=digest, sites=sites, left_out=left_out
        )
        if outcome is None:
            return dict(model), {}
        mean, metrics = without_metrics(outcome.mean, self._full)
        layout = Layout.of(dict(model))
        moved = layout.flatten(dict(model), dtype="float64") + layout.flatten(mean, dtype="float64")
        return layout.restore(moved, like=dict(model), dtype="like"), metrics

    def _train(self, number: int, model: Any, request: Any) -> tuple[list[str], dict[str, str]]:
        """Let all sites train; returns those that have, and why the others have not."""
        assert self._rounds is not None
        sites = sorted(self._sites)
        if self._pinned is not None:
            sites = [site for site in sites if site in self._pinned.ids(PartyRole.CLIENT)]
        message = write(self._full, number=number) | {MODEL: model, REQUEST: request}
        trained, left_out = [], dict.fromkeys(sites, "no answer to the training")
        for site, answer in self._rounds.ask_each(sites, message, self.training_seconds):
            try:
                if isinstance(answer, Exception):
                    raise answer
                read(answer, self._full)
            except Exception as error:
                left_out[site] = as_refusal(error)
            else:
                trained.append(site)
                del left_out[site]
        return trained, left_out

    def _ask(self, site: str, message: dict[str, Any], seconds: float) -> Any:
        """A site's answer to a call of its Collab object."""
        if site not in self._sites:
            raise ConfigError(f"no site {site:.80} is in this job")
        return self._sites[site](timeout=seconds, target=self.target).secagg_message(message)


def _check_running() -> None:
    if collab.is_aborted:
        raise Aborted("NVFlare ends the job")
