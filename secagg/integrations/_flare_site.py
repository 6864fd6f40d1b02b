"""A site's side in NVFlare: a filter that keeps the update in the site, and answers the protocol's messages."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from nvflare.apis.utils.task_utils import contains_lazy_download_ref, get_filters, materialize_lazy_download_refs
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.logging.constants import is_log_streaming_allowed
from nvflare.private.privacy_manager import Scope

from mpc.keys import encode_parts
from secagg.errors import ConfigError, EncodingError
from secagg.integrations._flare_ways_out import (
    PUBLIC,
    TOPIC,
    check_executors,
    check_shell,
    keep_events,
    only_the_server,
    part,
)
from secagg.integrations._shared.budget import check_unbudgeted
from secagg.integrations._shared.digests import arrays_of, dtypes_of, typed
from secagg.integrations._shared.metrics import MOST_NUMBERS, only_numbers
from secagg.integrations._shared.settings import read_settings
from secagg.integrations._shared.site import Site, Training
from secagg.integrations._shared.statements import task_text
from secagg.task import Task

log = logging.getLogger("secagg.nvflare")

STACK = "nvflare"
PLACEHOLDER = "secagg"
WEIGHT = MetaKey.NUM_STEPS_CURRENT_ROUND

SERVER = "server"  # the server's name in every Collab job
MODEL, REQUEST = "model", "request"  # in the message that asks a Collab client to train

# What NVFlare itself adds for each site on the way. None of it reaches the training script, except through code
# that reads the task's headers itself.
_TRANSPORT = {
    ReservedHeaderKey.TASK_ID, ReservedHeaderKey.TASK_OPERATOR, ReservedHeaderKey.AUDIT_EVENT_ID,
    ReservedHeaderKey.PEER_CTX, ReservedHeaderKey.PEER_PROPS, ReservedHeaderKey.MSG_ROOT_ID,
    ReservedHeaderKey.MSG_ROOT_TTL, ReservedHeaderKey.WORKFLOW, "__wait_time__", "task_name",
}  # fmt: skip
CONFIG = "secagg.config"  # in a placeholder's meta
_CODES = {code for name, code in vars(ReturnCode).items() if name.isupper()}


def request_digest(job: str, task_name: str, request: Mapping[str, Any], config: str = "") -> bytes:
    """SHA-256 over a train request but for its model's numbers: the job, the task's name, dtypes and all the rest.

    ``config`` is the :func:`config_digest` of the sites. A server that can make one site train and the others not,
    for example by a learning rate of 0, reads that site's update off the sum. ``ConfigError`` for a value of a type
    that has no bytes of its own.
    """
    content = dict(request)
    headers = dict(content.pop(ReservedHeaderKey.HEADERS, None) or {})
    cookies = dict(headers.pop(ReservedHeaderKey.COOKIE_JAR, None) or {})
    meta = dict(content.pop("DXO"))
    dtypes = dtypes_of(meta.pop("data"))
    sent = [{name: entries[name] for name in sorted(entries.keys() - _TRANSPORT)} for entries in (headers, cookies)]
    parts = [meta, content, *sent, dtypes, *([config] if config else [])]
    return hashlib.sha256(encode_parts(f"secagg/v1/{STACK}-request", job, task_name, *typed(parts))).digest()


def config_digest(task: Task, fl_ctx: Any) -> str:
    """SHA-256 over the job's config for this site, such as a script's arguments, as this process has read it.

    A job may have a config for each site, which steers a training as a request does. Empty under ``"semi-honest"``.
    """
    if task.protocol.threat_model == "semi-honest":
        return ""
    config = encode_parts(f"secagg/v1/{STACK}-config", *typed(fl_ctx.get_engine().conf.config_data))
    return hashlib.sha256(config).hexdigest()


@dataclass(repr=False)
class _Run:
    """What a site's filters share of one run of a task: it lies in the run's context, because tasks may overlap."""

    data: Any  # NVFlare's request
    training: Training
    config: str
    placeholder: Shareable | None = None


_RUN = "secagg.run"  # the context's property
_CANT = "this site can't take part with this job, or with its settings; its log says why"
_SITES: dict[tuple[str, str], Site] = {}  # job and site → what this process plays; a simulator may play several
_OPENING = threading.Lock()


def site_of(task: Task, fl_ctx: Any) -> Site:
    """The site of this job, made if it does not exist yet; ``ConfigError`` for settings that don't fit."""
    key = _key(fl_ctx)
    with _OPENING:
        if key not in _SITES:
            engine = fl_ctx.get_engine()
            local = engine.get_workspace().get_site_config_dir()
            check_shell(task, local, fl_ctx)
            settings = read_settings(key[1], local)
            site = Site(task, key[1], stack=STACK, run=key[0], settings=settings, weighted_by=WEIGHT)
            only_the_server(engine.get_cell(), key[0])
            engine.register_aux_message_handler(TOPIC, lambda topic, request, fl_ctx: _answer(site, request))
            _SITES[key] = site
        if _SITES[key].task.digest != task.digest:
            _SITES[key].close()  # the site's operator may have set the other one
            raise ConfigError("got two SecureFilters with different tasks in one job; give them the same")
        return _SITES[key]


def _key(fl_ctx: Any) -> tuple[str, str]:
    return str(fl_ctx.get_job_id()), str(fl_ctx.get_identity_name())


def _answer(site: Site, request: Shareable) -> Shareable:
    reply = Shareable(site.answer({name: request[name] for name in request if name != ReservedHeaderKey.HEADERS}))
    reply.set_return_code(ReturnCode.OK)
    return reply


class SecureFilter(Filter):  # type: ignore[misc]
    """A task result filter that keeps each update in its site, and plays the site's part in the secure sum.

    ``recipe.add_client_output_filter(SecureFilter(TASK), tasks=["train"])``, after all other filters, beside
    ``aggregator=SecureAggregator(TASK)`` on the server. What leaves in place of the model is an array of one zero.

    - ``task``: a :class:`secagg.Task`, or base64 of its bytes, as a job's JSON has it.
    - ``metrics``: name → bound, as in :class:`SecureAggregator`.
    - ``train_task``: the name of NVFlare's task that trains. Of other tasks' results, which no session protects,
      only evaluations leave: 64 metrics that are numbers, and none if the site has a privacy budget, unless its
      settings have ``"secagg-evaluate": true``. This holds for all tasks of the job, whatever they are called.

    The site's settings are read on the site and never from the job: see ``docs/nvflare.md``. An operator who lists
    the filter in the site's ``privacy.json``, under ``task_result_filters`` and under ``components``, has it in
    every job. Of a result that it can't protect only a return code leaves, and a line in the site's log says why.
    """

    __module__ = PUBLIC

    def __init__(
        self,
        task: Task | str,
        metrics: Mapping[str, float] | None = None,
        train_task: str = AppConstants.TASK_TRAIN,
    ) -> None:
        super().__init__()
        self._full, self.task = task_text(task, metrics)
        self.train_task = train_task

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """See NVFlare's ``FLComponent``."""
        if event_type == EventType.START_RUN:
            with self._noting():
                keep_events(fl_ctx)
                check_executors(fl_ctx)
                site_of(self._full, fl_ctx)
            if not fl_ctx.get_prop(FLContextKey.SIMULATE_MODE):
                self._warn(fl_ctx)
        elif event_type == EventType.BEFORE_TASK_EXECUTION:
            part(fl_ctx.get_prop(FLContextKey.TASK_DATA))
            if fl_ctx.get_prop(FLContextKey.TASK_NAME) == self.train_task:
                with self._noting():
                    self._take(fl_ctx)
        elif event_type == EventType.BEFORE_TASK_RESULT_FILTER:
            self._hold_back(fl_ctx)
        elif event_type == EventType.END_RUN and (site := _SITES.pop(_key(fl_ctx), None)) is not None:
            site.close()

    def _warn(self, fl_ctx: Any) -> None:
        """Log what the site's operator has left open."""
        if is_log_streaming_allowed(fl_ctx):
            log.warning(
                "secagg: a job may send this site's log to the server, with what secagg writes there about its "
                'files and numbers; set "allow_log_streaming": false in the site\'s resources.json'
            )

    def _take(self, fl_ctx: Any) -> None:
        """Take the model and the digest of the request, before the script may change anything."""
        site, data = site_of(self._full, fl_ctx), fl_ctx.get_prop(FLContextKey.TASK_DATA)
        run = _run_in(fl_ctx)
        if run is not None and run.data is data:  # another filter of this site has taken it
            return
        fl_ctx.set_prop(_RUN, None, private=True, sticky=False)
        if contains_lazy_download_ref(data):  # the script runs in another process, which would fetch the model
            data["DXO"] = materialize_lazy_download_refs(data, fl_ctx.get_engine().get_cell())["DXO"]
        dxo = from_shareable(data)
        number = data.get_header(AppConstants.CURRENT_ROUND)
        if dxo.data_kind != DataKind.WEIGHTS or type(number) is not int or number < 0:
            raise ConfigError(f"got a train request of kind {dxo.data_kind!r:.40}; expected a model and its round")
        config = config_digest(self._full, fl_ctx)
        digest = request_digest(str(fl_ctx.get_job_id()), self.train_task, data, config)
        run = _Run(data, site.take(number, arrays_of(dxo.data), digest), config)
        fl_ctx.set_prop(_RUN, run, private=True, sticky=False)

    def _hold_back(self, fl_ctx: Any) -> None:
        """Empty a result for which no SecureFilter is listed.

        An executor may take every task, but NVFlare looks filters up by a task's exact name. A server that lies
        sends its model as a task of another name.
        """
        name, result = fl_ctx.get_prop(FLContextKey.TASK_NAME), fl_ctx.get_prop(FLContextKey.TASK_RESULT)
        allowed = make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)
        try:
            if any(isinstance(each, SecureFilter) for each in _filters_of(name, fl_ctx)):
                return
            if name == self.train_task:
                raise ConfigError(f"got no SecureFilter for task {name!r:.80}; list it under task_result_filters")
            allowed = self._evaluation(result, name, fl_ctx)
        except Exception as error:
            _log_held_back(error)
        content = dict(allowed)  # the same object goes to the filters, and to the server
        result.clear()
        result.update(content)

    def _evaluation(self, result: Shareable, name: str, fl_ctx: Any) -> Shareable:
        """The metrics of an evaluation, and nothing else; ``ConfigError`` for another result."""
        code = result.get_return_code()
        if code != ReturnCode.OK:
            return make_reply(code if code in _CODES else ReturnCode.EXECUTION_EXCEPTION)
        check_unbudgeted(self._site(fl_ctx).settings)
        metrics = from_shareable(result).data if result.get("DXO", {}).get("kind") == DataKind.METRICS else None
        if (numbers := only_numbers(metrics)) is None:
            raise ConfigError(
                f"got a result of task {name!r:.80}, which secagg does not protect; it stays here: take the task "
                "out of the job, such as add_cross_site_evaluation(...). An evaluation may send "
                f"{MOST_NUMBERS} metrics, each a number"
            )
        return DXO(DataKind.METRICS, data=numbers, meta={}).to_shareable()

    @staticmethod
    @contextmanager
    def _noting() -> Iterator[None]:
        """Log an error. NVFlare goes on after an event that fails; :meth:`process` then finds no request."""
        try:
            yield
        except Exception as error:
            log.warning("secagg: this site can't take part: %s: %s", type(error).__name__, error)

    def process(self, shareable: Shareable, fl_ctx: Any) -> Shareable:
        """See NVFlare's ``Filter``: the placeholder, in place of the result.

        For what can't be protected it is a return code and nothing else. It raises nothing, because NVFlare would
        log a traceback at each site in each round.
        """
        try:
            return self._protected(shareable, fl_ctx)
        except Exception as error:
            _log_held_back(error)
            return make_reply(ReturnCode.TASK_RESULT_FILTER_ERROR)
        finally:
            fl_ctx.set_prop(FLContextKey.TASK_RESULT, None, private=True, sticky=False)  # for later filters

    def _protected(self, shareable: Shareable, fl_ctx: Any) -> Shareable:
        """What may leave of a result; ``ConfigError`` for what can't be protected."""
        name = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        if name != self.train_task:
            return self._evaluation(shareable, name, fl_ctx)
        site, run = self._site(fl_ctx), _run_in(fl_ctx)
        if run is None:
            raise ConfigError(_CANT)
        if shareable is run.placeholder:  # of this site's own filter, if the job has one too
            return shareable
        code = shareable.get_return_code()
        if code != ReturnCode.OK:
            return make_reply(code if code in _CODES else ReturnCode.EXECUTION_EXCEPTION)
        self._check_filters(fl_ctx)
        dxo = _model_in(shareable)
        metrics = dict(dxo.get_meta_prop(MetaKey.INITIAL_METRICS) or {})
        if WEIGHT in (dxo.meta or {}):
            metrics[WEIGHT] = dxo.meta[WEIGHT]
        site.keep(run.training, arrays_of(dxo.data), metrics)
        meta = {CONFIG: run.config} if run.config else {}
        placeholder = DXO(DataKind.WEIGHTS, data={PLACEHOLDER: np.zeros(1)}, meta=meta).to_shareable()
        placeholder.set_header(AppConstants.CURRENT_ROUND, run.training.number)
        placeholder.set_return_code(ReturnCode.OK)
        run.placeholder = placeholder
        return placeholder

    def _site(self, fl_ctx: Any) -> Site:
        """The site of this job; ``ConfigError`` for settings that don't fit, after a line that says why."""
        with self._noting():
            return site_of(self._full, fl_ctx)
        raise ConfigError(_CANT)

    def _check_filters(self, fl_ctx: Any) -> None:
        """``ConfigError`` unless the job lists this filter, and lists no other after it."""
        listed = getattr(fl_ctx.get_prop(FLContextKey.RUNNER), "task_result_filters", {})
        of_job = listed.get(self.train_task + FilterKey.DELIMITER + FilterKey.OUT) or []
        if not any(isinstance(each, SecureFilter) for each in of_job):
            raise ConfigError(
                "got a job without SecureFilter, so its server expects updates in the clear; use secured"
            )
        filters = _filters_of(self.train_task, fl_ctx)
        first = next(at for at, each in enumerate(filters) if isinstance(each, SecureFilter))
        if after := [type(each).__name__ for each in filters[first:] if not isinstance(each, SecureFilter)]:
            raise ConfigError(
                f"got filter {after[0]} after SecureFilter, which would see no update; put it before SecureFilter"
            )


def _log_held_back(error: Exception) -> None:
    """Log why a result stays here. The text of a ``ConfigError`` has no detail of the site.

    So it may be in the error log, which a site sends to the server: there the job's author reads it.
    """
    if isinstance(error, ConfigError):
        log.error("secagg: held back a result: %s", error)
    else:
        log.warning("secagg: held back a result: %s", error, exc_info=not isinstance(error, EncodingError))


def _run_in(fl_ctx: Any) -> _Run | None:
    run = fl_ctx.get_prop(_RUN)
    return run if isinstance(run, _Run) else None


def _filters_of(name: str, fl_ctx: Any) -> list[Any]:
    """The result filters of a task, the site's before the job's."""
    configured = getattr(fl_ctx.get_prop(FLContextKey.RUNNER), "task_result_filters", {})
    return list(get_filters(Scope.TASK_RESULT_FILTERS_NAME, fl_ctx, configured, name, FilterKey.OUT))


def _model_in(result: Shareable) -> DXO:
    """The model in a script's result; ``ConfigError`` for anything else, of which nothing leaves."""
    try:
        dxo = from_shareable(result)
    except Exception as error:
        raise ConfigError(
            f"got a result that is not a model ({type(error).__name__}); return the whole model"
        ) from None
    if dxo.data_kind == DataKind.WEIGHT_DIFF:
        raise ConfigError(
            "got a difference from the script; send the whole model, with params_transfer_type=TransferType.FULL"
        )
    if dxo.data_kind != DataKind.WEIGHTS or not dxo.data:
        raise ConfigError(f"got a result of kind {dxo.data_kind!r:.40} or without data; return the whole model")
    return dxo
