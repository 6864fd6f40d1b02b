"""A server and sites of NVFlare in one process, without a job: real filters, task runners, results and messages.

Each site runs its tasks with NVFlare's own ``ClientRunner``, so what :meth:`Site.run` returns is what a site sends.
Only the cells are missing: a message is written and read by NVFlare's FOBS, and handed over.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from nvflare.apis.client_engine_spec import ClientEngineSpec
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from nvflare.apis.workspace import Workspace
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.decomposers.numpy_decomposers import NumpyArrayDecomposer
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.fuel.f3.cellnet.defs import CellChannel, MessageHeaderKey
from nvflare.fuel.f3.message import Message
from nvflare.fuel.utils import fobs
from nvflare.private.event import fire_event
from nvflare.private.fed.app.fl_conf import create_privacy_manager
from nvflare.private.fed.client.client_engine_executor_spec import TaskAssignment
from nvflare.private.fed.client.client_runner import ClientRunner, ClientRunnerConfig, TaskRouter
from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize
from nvflare.widgets.fed_event import ClientFedEventRunner

from tests.flare.document import block

nvflare_fobs_initialize()
fobs.register(NumpyArrayDecomposer)

MODEL = {"numpy_key": np.full((4, 5), 0.5, np.float32)}
Train = Callable[[str, Shareable], Any]  # site and request → an FLModel, or a Shareable that is sent as it is


class Engine:
    """What a filter, an aggregator or a runner uses of NVFlare's engine, for one participant."""

    def __init__(self, folder: Path, name: str, job: str) -> None:
        for part in ("startup", "local"):
            (folder / part).mkdir(parents=True)
        (folder / "local" / "secagg__p_resources.json").write_text(block("json", "NoShell"))
        self.workspace = Workspace(str(folder), name)
        self.contexts = FLContextManager(self, name, job, {}, {})
        self.handlers: list[Any] = []
        self.topics: dict[str, Any] = {}
        self.guards: dict[tuple[str, str], Any] = {}  # the cell's filters of what comes in
        self.events: list[bytes] = []  # what left as federated events
        self.conf = SimpleNamespace(config_data={})  # the job's config for this participant

    def new_context(self) -> FLContext:
        return self.contexts.new_context()

    def get_workspace(self) -> Workspace:
        return self.workspace

    def get_cell(self) -> Engine:
        return self

    @property
    def core_cell(self) -> Engine:
        return self

    def add_incoming_request_filter(self, channel: str, topic: str, cb: Any) -> None:
        self.guards[channel, topic] = cb

    def register_request_cb(self, channel: str, topic: str, cb: Any) -> None:
        pass  # its messages are handed over

    def register_aux_message_handler(self, topic: str, message_handle_func: Any) -> None:
        self.topics[topic] = message_handle_func

    def fire_event(self, event_type: str, fl_ctx: FLContext) -> None:
        fire_event(event_type, self.handlers, fl_ctx)

    def fire_and_forget_aux_request(self, topic: str, request: Shareable, fl_ctx: FLContext, **_: Any) -> None:
        self.events.append(fobs.dumps(dict(request)))

    def fire(self, event_type: str) -> None:
        with self.new_context() as fl_ctx:
            self.fire_event(event_type, fl_ctx)


ClientEngineSpec.register(Engine)


class Training(Executor):  # type: ignore[misc]
    """The training script's place."""

    def __init__(self, site: str, train: Train) -> None:
        super().__init__()
        self.site, self.train = site, train

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Any) -> Any:
        result = self.train(self.site, shareable)
        return FLModelUtils.to_shareable(result) if isinstance(result, FLModel) else result


class Site:
    """A site: its runner with the job's filters, and what has left it (``sent``).

    ``settings`` and ``privacy`` are the content of its ``secagg.json`` and ``privacy.json``, ``config`` that of the
    job's config for the site, and ``components`` are the job's. With ``shell`` it takes NVFlare's shell commands.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        filters: Iterable[Any],
        train: Train,
        settings: Any = None,
        privacy: Any = None,
        executor: Any = None,
        config: Any = None,
        components: Iterable[Any] = (),
        shell: bool = False,
    ) -> None:
        self.name, self.filters, self.sent = name, list(filters), list[bytes]()
        job = job_of(folder)
        self.engine = Engine(folder / name, name, job)
        self.engine.conf.config_data.update(config or {})
        if shell:
            (folder / name / "local" / "secagg__p_resources.json").unlink()
        if settings is not None:
            (folder / name / "local" / "secagg.json").write_text(json.dumps(settings))
        if privacy is not None:
            (folder / name / "local" / "privacy.json").write_text(json.dumps(privacy))
        policy = create_privacy_manager(self.engine.workspace, names_only=False)
        self.scope = policy.default_scope
        router = TaskRouter()
        executor = executor or Training(name, train)
        router.add_executor(["*"], executor)
        results = {
            f"{task}{FilterKey.DELIMITER}out": self.filters for task in ("train", "validate", "submit_model")
        }
        self.runner = ClientRunner({}, ClientRunnerConfig(router, {}, results), job, self.engine)
        own = [executor, *components, *self.filters, *(policy.components or {}).values()]
        self.engine.handlers = [*own, ClientFedEventRunner(), self.runner]
        with self.engine.new_context() as fl_ctx:
            fl_ctx.set_prop(FLContextKey.RUNNER, self.runner, private=True, sticky=True)
        self.engine.fire(EventType.START_RUN)

    def run(self, request: Shareable, task: str = "train") -> Shareable:
        """Run a task; what the site would send, read again."""
        return self.run_as_read(copy(request), task)

    def run_as_read(self, request: Shareable, task: str = "train", number: Any = "1") -> Shareable:
        """Run a task whose data NVFlare has read as ``request``."""
        with self.engine.new_context() as fl_ctx:
            fl_ctx.set_peer_context(peer("server", fl_ctx.get_job_id()))
            fl_ctx.set_prop(FLContextKey.SCOPE_OBJECT, self.scope, private=True, sticky=False)
            reply = self.runner._process_task(TaskAssignment(task, number, request), fl_ctx)
        self.sent.append(fobs.dumps(dict(reply)))
        return copy(reply)

    def ask(self, topic: str, message: Shareable, sender: str = "server") -> Shareable:
        """Take a message of the auxiliary channel; an error if the cell drops what this sender sends."""
        with self.engine.new_context() as fl_ctx:
            headers = {
                MessageHeaderKey.CHANNEL: CellChannel.AUX_COMMUNICATION,
                MessageHeaderKey.TOPIC: topic,
                MessageHeaderKey.ORIGIN: f"{sender}.{fl_ctx.get_job_id()}",
            }
            for guard in filter(None, [self.engine.guards.get((CellChannel.AUX_COMMUNICATION, topic))]):
                if guard(Message(headers)):
                    return make_reply(ReturnCode.COMMUNICATION_ERROR)
            reply = self.engine.topics[topic](topic=topic, request=copy(message), fl_ctx=fl_ctx)
        self.sent.append(fobs.dumps(dict(reply)))
        return copy(reply)


class Federation(Engine):
    """The server's engine, and the rounds that FedAvg plays with an aggregator; ``tamper`` may change a request."""

    def __init__(self, folder: Path, aggregator: Any, sites: list[Site]) -> None:
        super().__init__(folder / "server", "server", job_of(folder))
        self.aggregator, self.sites = aggregator, {site.name: site for site in sites}
        self.handlers = [aggregator]
        self.tamper: Callable[[str, Shareable], None] = lambda site, request: None
        self.panics: list[str] = []
        self.fire(EventType.START_RUN)

    def get_clients(self) -> list[str]:
        return list(self.sites)

    def send_aux_request(
        self, targets: list[str], topic: str, request: Shareable, timeout: float, fl_ctx: FLContext, **_: Any
    ) -> dict[str, Shareable]:
        return {target: self.sites[target].ask(topic, request) for target in targets}

    def round(
        self,
        number: int,
        model: dict[str, Any] | None = None,
        change: Callable[[Shareable], None] = lambda request: None,
    ) -> Any:
        """A round as FedAvg plays it: all sites train, the aggregator takes their results and returns the mean.

        ``change`` may change the request for all sites, and for the server too.
        """
        self.aggregator.reset_stats()
        request = FLModelUtils.to_shareable(
            FLModel(params=MODEL if model is None else model, params_type=ParamsType.FULL, current_round=number)
        )
        request.set_header(ReservedHeaderKey.TASK_NAME, AppConstants.TASK_TRAIN)
        change(request)
        with self.new_context() as fl_ctx:
            self.aggregator.fl_ctx = fl_ctx
            for name in self.sites:
                self._ask(name, request)
            for name, site in self.sites.items():
                sent = copy(request)
                self.tamper(name, sent)
                reply = site.run(sent)
                if reply.get_return_code() == ReturnCode.OK:
                    result = FLModelUtils.from_shareable(reply)
                    result.meta["client_name"] = name
                    try:
                        self.aggregator.accept_model(result)
                    except Exception as error:  # as NVFlare's controller does
                        logging.getLogger("nvflare").error("Unsuccessful callback: %s", error)
            return self.aggregator.aggregate_model()

    def _ask(self, name: str, request: Shareable) -> None:
        """A site fetches its request."""
        with self.new_context() as fl_ctx:
            fl_ctx.set_peer_context(peer(name, fl_ctx.get_job_id()))
            fl_ctx.set_prop(AppConstants.TRAIN_SHAREABLE, request, private=True, sticky=False)
            self.fire_event(AppEventType.BEFORE_TRAIN_TASK, fl_ctx)


def job_of(folder: Path) -> str:
    """A job's id: a process keeps what it plays by job and site, so each folder has its own."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:8]


def peer(name: str, job: str) -> FLContext:
    """The context of the participant on the other side, as NVFlare takes it from a message."""
    context = FLContext()
    for key, value in ((ReservedKey.IDENTITY_NAME, name), (ReservedKey.RUN_NUM, job)):
        context.set_prop(key, value, private=False, sticky=False)
    return context


def copy(message: Shareable) -> Shareable:
    """A message as the other side reads it."""
    read = Shareable()
    read.update(fobs.loads(fobs.dumps(dict(message))))
    return read
