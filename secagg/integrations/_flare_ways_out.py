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

log = logging.getLogger("secagg.nvflare")

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
    """A component of a site's ``resources.json``: with it NVFlare's server can't read the site's files.

    NVFlare's sites run ``cat``, ``head``, ``tail``, ``grep`` and ``ls`` for the server, on all files that the
    site's user may read. The server says whether a command needs an authorization, so a server that lies reads the
    site's private key. A site with this component takes no such command. It has no arguments.
    """

    __module__ = PUBLIC

    def __init__(self) -> None:
        super().__init__()
        commands = ClientRequestProcessors.request_processors  # the list that the site's process then takes
        commands[:] = [command for command in commands if SysCommandTopic.SHELL not in command.get_topics()]


def has_shell(local: str) -> bool:
    """Whether the server may run NVFlare's shell commands at the site with this folder ``local``."""
    try:
        text = (Path(local) / "resources.json").read_text(encoding="utf-8")
    except (OSError, ValueError):  # the site then has NVFlare's own components
        return True
    return f"{PUBLIC}.{NoShell.__name__}" not in text
