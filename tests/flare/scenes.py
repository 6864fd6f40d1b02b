"""Four sites that train, and a server that may misuse them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.analytix import ANALYTIC_EVENT_TYPE, AnalyticsDataType
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.shareable import Shareable
from nvflare.apis.utils.analytix_utils import create_analytic_dxo
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.widgets.convert_to_fed_event import ConvertToFedEvent
from nvflare.fuel.sec.audit import AuditService
from nvflare.private.admin_defs import Message as AdminMessage
from nvflare.private.defs import SysCommandTopic, new_cell_message
from nvflare.private.fed.client.admin import FedAdminAgent
from nvflare.private.fed.client.client_req_processors import ClientRequestProcessors

import secagg
from secagg.integrations.flare import SecureAggregator, SecureFilter
from secagg.keygen import write_identities
from tests.flare.federation import MODEL, Engine, Federation, Site, copy

SITES = [f"site-{number}" for number in range(1, 5)]
VICTIM = "site-3"


def make_task(threat_model: str = "malicious", **changes: Any) -> secagg.Task:
    settings: dict[str, Any] = {
        "protocol": secagg.SecAgg(threat_model=threat_model),
        "layout": secagg.Layout.of(MODEL),
        "encoding": secagg.FixedPoint(clip=1.0, bits=24),
        "max_clients": 4,
        "min_survivors": 3,
    }
    return secagg.Task(**settings | changes)


def update(site: str) -> Any:
    """What a site's training adds to the model."""
    seed = int.from_bytes(hashlib.sha256(site.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).uniform(-0.5, 0.5, MODEL["numpy_key"].shape).astype(np.float32)


def is_told_to_rest(request: Shareable) -> bool:
    """A script with a learning rate, which a request may set in each of the places that reach it."""
    model = FLModelUtils.from_shareable(request)
    places = [model.meta, request.get_cookie_jar() or {}, request["__headers__"], request]
    return any(place.get("lr") == 0.0 for place in places) or model.total_rounds == 0


def train(site: str, request: Shareable) -> FLModel:
    model = FLModelUtils.from_shareable(request)
    change = 0 if is_told_to_rest(request) else update(site)
    return FLModel(params={"numpy_key": model.params["numpy_key"] + change}, metrics={"loss": 1.0})


def make_federation(
    folder: Path,
    task: secagg.Task | None = None,
    *,
    filters: Iterable[Any] = (),
    mistake: Callable[[Path, dict[str, Any]], Any] = lambda *_: None,
    results: Mapping[str, Callable[[], Any]] | None = None,
    sites: Iterable[str] = SITES,
    configs: Mapping[str, Any] | None = None,
) -> Federation:
    """Enrolled sites, each with a key and a folder of its own; ``configs`` are those of the job for single sites.

    The victim has the ``filters`` if there are any, and its settings are what ``mistake`` makes of them. A site's
    script returns what ``results`` has for it.
    """
    task = make_task() if task is None else task
    (folder / "keys").mkdir(parents=True)
    write_identities(SITES, folder / "keys")
    roster = str(folder / "keys" / "roster.json")
    made, results = [], results or {}

    def script(site: str, request: Shareable) -> Any:
        return results[site]() if site in results else train(site, request)

    for name in sites:
        settings = {
            "secagg-key": str(folder / "keys" / f"{name}.pem"),
            "secagg-roster": roster,
            "secagg-dir": str(folder / f"{name}.secagg"),
        }
        if name == VICTIM:
            mistake(folder, settings)
        own = list(filters) if name == VICTIM else []
        config = (configs or {}).get(name)
        made.append(Site(folder, name, own or [SecureFilter(task)], script, settings, config=config))
    return Federation(folder, SecureAggregator(task, roster=roster, deadlines=20.0), made)


def rest_in_meta(request: Shareable) -> None:
    request["DXO"]["meta"]["lr"] = 0.0


def rest_in_a_header(request: Shareable) -> None:
    request.set_header("lr", 0.0)


def rest_in_a_cookie(request: Shareable) -> None:
    request.add_cookie("lr", 0.0)


def rest_beside_the_model(request: Shareable) -> None:
    request["lr"] = 0.0


def rest_in_the_number_of_rounds(request: Shareable) -> None:
    request.set_header("num_rounds", 0)


LIES: dict[str, Callable[[Shareable], None]] = {
    "in the meta": rest_in_meta,
    "in a header": rest_in_a_header,
    "in a cookie": rest_in_a_cookie,
    "beside the model": rest_beside_the_model,
    "in the number of rounds": rest_in_the_number_of_rounds,
}


def steer(folder: Path, lie: str) -> tuple[Federation, FLModel]:
    """All sites but the victim are told to rest: what the server learns of a round."""
    federation = make_federation(folder)
    federation.tamper = lambda site, request: None if site == VICTIM else LIES[lie](request)
    return federation, federation.round(0)


def configure(folder: Path, *, threat_model: str = "malicious") -> tuple[Federation, FLModel]:
    """The job's config has a rate of 0 for all sites but the victim: what the server learns of a round."""
    rates = {site: 0.1 if site == VICTIM else 0.0 for site in SITES}

    def trained(site: str) -> FLModel:
        change = update(site) if rates[site] else 0
        return FLModel(params={"numpy_key": MODEL["numpy_key"] + change}, metrics={"loss": 1.0})

    federation = make_federation(
        folder,
        make_task(threat_model),
        results={site: partial(trained, site) for site in SITES},
        configs={site: {"executors": [{"args": {"task_script_args": f"--lr {rates[site]}"}}]} for site in SITES},
    )
    return federation, federation.round(0)


def share(folder: Path, place: str, ending: str) -> bytes:
    """What a site sends whose script trains in place, on an array that NVFlare has read as one with another.

    NVFlare's downloads carry each array once, so a server can name the same one in the model and in a cookie, or in
    the task's id. The script ends with a result or an error.
    """

    def script(site: str, request: Shareable) -> Any:
        array = FLModelUtils.from_shareable(request).params["numpy_key"]
        array += update(VICTIM)
        if ending == "an error":
            raise ValueError("out of memory")
        return FLModel(params={"numpy_key": array})

    site = Site(folder, VICTIM, [SecureFilter(make_task("semi-honest"))], script, {})
    model = FLModel(params=MODEL, params_type=ParamsType.FULL, current_round=0)
    request, number = copy(FLModelUtils.to_shareable(model)), "1"
    array = request["DXO"]["data"]["numpy_key"]
    if place == "a cookie":
        request.add_cookie("kept", array)
    else:
        number = DXO(DataKind.WEIGHTS, data={"kept": array})
    site.run_as_read(request, number=number)
    return site.sent[0]


def has_the_victims_model(sent: bytes) -> bool:
    return (MODEL["numpy_key"] + update(VICTIM)).tobytes() in sent


def track(folder: Path) -> bytes:
    """What leaves a site whose script writes a metric for experiment tracking, on both of NVFlare's ways."""
    executor = ClientAPIExecutor(execution_mode="in_process", task_script_path="train.py")
    convert = ConvertToFedEvent(events_to_convert=[ANALYTIC_EVENT_TYPE])
    filters = [SecureFilter(make_task("semi-honest"))]
    site = Site(folder, VICTIM, filters, train, {}, components=[executor, convert])
    metric = create_analytic_dxo("loss", 0.123456789, AnalyticsDataType.SCALAR)
    for has_a_process in (False, True):
        executor.set_analytics_fire_fed_event(has_a_process)
        with site.engine.new_context() as fl_ctx:
            executor.fire_log_analytics(fl_ctx, metric)
    return b"".join(site.engine.events)


def has_the_metric(sent: bytes) -> bool:
    return np.array(0.123456789, ">f8").tobytes() in sent


def shell(folder: Path, component: Callable[[], Any] | None) -> str:
    """What a site answers to the server's ``cat`` of its private key, without the header that asks for permission.

    ``component`` is one of the site's own.
    """
    key = folder / "site-3.pem"
    write_identities([VICTIM], folder)
    AuditService.initialize(str(folder / "audit.txt"))
    engine = Engine(folder / VICTIM, VICTIM, "job")
    agent = FedAdminAgent("admin_agent", engine, engine)
    if component is not None:
        component()
    for processor in ClientRequestProcessors.request_processors:
        agent.register_processor(processor)
    reply = agent._dispatch_request(new_cell_message({}, AdminMessage(SysCommandTopic.SHELL, f"cat {key}")))
    assert "PRIVATE KEY" in key.read_text()
    return str(reply.payload.body)


def overlap(folder: Path) -> FLModel:
    """All sites rest, and the victim is asked to train too, just before it is asked to rest.

    NVFlare runs a task that comes as an auxiliary message beside the one that a site has fetched.
    """
    federation = make_federation(folder)
    victim, waiting = federation.sites[VICTIM], list[Shareable]()
    executor = victim.runner.find_executor("train")
    script = executor.train

    def train_long(site: str, request: Shareable) -> Any:
        result = script(site, request)
        if waiting:
            victim.run(waiting.pop())
        return result

    def tamper(site: str, request: Shareable) -> None:
        if site == VICTIM:
            waiting.append(copy(request))
            del request["__headers__"]["lr"]

    executor.train, federation.tamper = train_long, tamper
    return federation.round(0, change=rest_in_a_header)


def has_the_victims_update(result: FLModel) -> bool:
    got = result.params.get("numpy_key")
    return got is not None and bool(np.allclose(len(SITES) * got, update(VICTIM), rtol=0, atol=1e-4))
