"""NVFlare's ways out of a site, and into it, that pass no result filter: each is closed when a job begins."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, ReservedTopic
from nvflare.apis.impl.task_controller import TaskController
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.fuel.f3.cellnet.defs import CellChannel, MessageHeaderKey
from nvflare.fuel.f3.cellnet.fqcn import FQCN
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL, STREAM_DATA_TOPIC, StreamHeaderKey
from nvflare.private.defs import SysCommandTopic
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors
from nvflare.widgets.fed_event import FED_EVENT_TOPIC, FedEventRunner

from secagg.errors import ConfigError
from secagg.task import Task

log = logging.getLogger("secagg.nvflare")

_RESOURCES = "resources.json", "*__resources.json", "*__p_resources.json"  # what a site's own process reads
PUBLIC = "secagg.integrations.flare"  # the module that jobs name
TOPIC = "secagg.message"  # of our messages on the auxiliary channel


def only_the_server(cell: Any, job: str) -> None:
    """Drop messages of our topic that the server's cell has not sent, and tasks and events that come as messages.

    All sites of a job may send such messages, and the context of a message is what its sender says of itself. A
    site fetches its tasks; only workflows between sites, which :func:`check_executors` refuses, send them. An event
    may have any name, that of the end of the job too, and no session is bound to it.
    """
    servers = FQCN.ROOT_SERVER, FQCN.join([FQCN.ROOT_SERVER, job])  # in a simulator, and in a job's own process
    topics = TOPIC, ReservedTopic.DO_TASK, FED_EVENT_TOPIC
    own, tasks, events = ((CellChannel.AUX_COMMUNICATION, topic) for topic in topics)

    def drop(message: Message) -> Message | None:
        get = message.get_header
        names = [(get(kind.CHANNEL), get(kind.TOPIC)) for kind in (MessageHeaderKey, StreamHeaderKey)]
        is_refused = tasks in names or events in names
        if not is_refused and (own not in names or get(MessageHeaderKey.ORIGIN) in servers):
            return None
        log.warning("secagg: dropped a message from %.80r, which may not send it", get(MessageHeaderKey.ORIGIN))
        return Message()

    for channel, topic in (own, tasks, events, (STREAM_CHANNEL, STREAM_DATA_TOPIC)):
        cell.core_cell.add_incoming_request_filter(channel, topic, drop)


def check_executors(fl_ctx: Any) -> None:
    """``ConfigError``, and every task of the job is refused, if an executor sends results to other sites itself.

    NVFlare's swarm, cyclic and cross-site workflows do so: a model leaves as a task's data, past result filters.
    """
    router = getattr(fl_ctx.get_prop(FLContextKey.RUNNER), "task_router", None)
    for executor in getattr(router, "task_table", {}).values():
        if isinstance(executor, TaskController):
            fl_ctx.set_job_is_unsafe()
            raise ConfigError(
                f"got executor {type(executor).__name__}, which sends results to other sites past all filters; use "
                "a workflow in which the server aggregates"
            )


def keep_events(fl_ctx: Any) -> None:
    """Keep all federated events of this job in the site.

    They carry what a script writes for experiment tracking. NVFlare's own executor sends them itself when the
    script has a process of its own, so what matters is not only a job's ``ConvertToFedEvent``.
    """

    def keep(**_: Any) -> None:
        log.debug("secagg: kept a federated event in this site")

    runners = [each for each in fl_ctx.get_engine().handlers if isinstance(each, FedEventRunner)]
    for runner in runners:
        runner.fire_and_forget_request = keep
    if not runners:
        fl_ctx.set_job_is_unsafe()
        raise ConfigError("got a release of NVFlare in which another part sends events; install nvflare>=2.9,<3")


def part(request: Shareable) -> None:
    """Give a script arrays of its own, which are in no other part of the request.

    NVFlare's messages have each array once, so one array can be in the model and in a cookie or the task's id.
    NVFlare returns these two to the server past all filters, and a script may have trained in place.
    """
    for name in [name for name in request if name != ReservedHeaderKey.HEADERS]:
        try:
            request[name] = copy.deepcopy(request[name])
        except Exception:  # NVFlare goes on after an event that fails
            request[name] = None


class NoShell(FLComponent):  # type: ignore[misc]
    """A component of a site's own process: with it NVFlare's server can't read the site's files.

    NVFlare's sites run ``cat``, ``head``, ``tail``, ``grep`` and ``ls`` for the server, on all files that the
    site's user may read. The server says whether a command needs an authorization, so a server that lies reads the
    site's private key. A site with this component takes no such command. It has no arguments, and an operator lists
    it in ``local/secagg__p_resources.json``, which NVFlare reads when a site starts.
    """

    __module__ = PUBLIC

    def __init__(self) -> None:
        super().__init__()
        commands = ClientRequestProcessors.request_processors  # the list that the site's process then takes
        commands[:] = [command for command in commands if SysCommandTopic.SHELL not in command.get_topics()]


def check_shell(task: Task, local: str, fl_ctx: Any) -> None:
    """``ConfigError`` if the server may lie, and can read this site's private key by NVFlare's shell commands.

    ``local`` is the site's folder of that name. A simulator's processes are all the same user's.
    """
    if task.protocol.threat_model == "semi-honest" or fl_ctx.get_prop(FLContextKey.SIMULATE_MODE):
        return
    name = f"{PUBLIC}.{NoShell.__name__}"
    files = [path for pattern in _RESOURCES for path in Path(local).glob(pattern)]
    if not any(name in path.read_text(encoding="utf-8", errors="replace") for path in files):
        raise ConfigError(
            "got a site whose private key a server that lies can read by NVFlare's shell commands; list "
            f"{name} in the site's local/secagg__p_resources.json and start the site again, or use "
            'threat_model="semi-honest"'
        )
