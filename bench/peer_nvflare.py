"""A round of NVFlare's homomorphic aggregation by its own code, compared with a round of ours.

NVFlare provisions the sites with its ``HEBuilder``'s defaults: CKKS, degree 8192, 60 + 40 + 40 bits, one secret key
for all sites. An update then goes the way of ``FedAvgRecipeWithHE``: ``HEModelEncryptor``, FOBS, the messages'
``encode_payload`` and ``decode_payload``, ``HEInTimeAccumulateWeightedAggregator``, ``HEModelShareableGenerator``,
the same messages back, ``HEModelDecryptor``. All parties of both sides work in one process, one after the other.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContextManager
from nvflare.apis.utils.decomposers import flare_decomposers
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.decomposers import common_decomposers
from nvflare.app_opt.he.intime_accumulate_model_aggregator import HEInTimeAccumulateWeightedAggregator
from nvflare.app_opt.he.model_decryptor import HEModelDecryptor
from nvflare.app_opt.he.model_encryptor import HEModelEncryptor
from nvflare.app_opt.he.model_shareable_generator import HEModelShareableGenerator
from nvflare.fuel.f3.cellnet.defs import Encoding, MessageHeaderKey
from nvflare.fuel.f3.cellnet.utils import decode_payload, encode_payload
from nvflare.fuel.f3.message import Message
from nvflare.fuel.sec.security_content_service import SecurityContentService
from nvflare.lighter.constants import CtxKey
from nvflare.lighter.entity import Project
from nvflare.lighter.impl.cert import CertBuilder
from nvflare.lighter.impl.he import HEBuilder
from nvflare.lighter.impl.signature import SignatureBuilder
from nvflare.lighter.impl.workspace import WorkspaceBuilder
from nvflare.lighter.provisioner import Provisioner

import secagg
from bench.measure import Call
from bench.peer_he import quiet
from bench.peers import Laps, Pair, Part, require
from secagg.protocols.base import AggregationProtocol

SITES = ("site-1", "site-2", "site-3")
STEPS = {site: 100 * number for number, site in enumerate(SITES, 1)}  # NVFlare weights an update by them
CLIP, BITS = 0.1, 16
PRECISION = 1e-6  # of NVFlare's mean, at values up to 0.1
GRID = max(STEPS.values()) * len(SITES) / sum(STEPS.values()) * CLIP / ((1 << (BITS - 1)) - 1)
"""The most by which ours may differ from the mean, in stochastic rounding: a grid step of each update, weighted."""

Model = dict[str, Any]  # a NumPy array of float32 for each tensor


def updates(tensors: int, size: int) -> dict[str, Model]:
    """A model of each site, with values from -0.1 to 0.1."""
    rng = np.random.default_rng(0)
    return {
        site: {f"layer{at:02}": rng.uniform(-CLIP, CLIP, size).astype(np.float32) for at in range(tensors)}
        for site in SITES
    }


def exact(models: Mapping[str, Model]) -> Model:
    """The weighted mean in float64."""
    total = sum(STEPS.values())
    return {
        name: sum(np.float64(models[site][name]) * STEPS[site] for site in SITES) / total
        for name in models[SITES[0]]
    }


def most_off(mean: Mapping[str, Any], models: Mapping[str, Model]) -> float:
    """The largest error of any value of ``mean``."""
    return max(float(np.abs(np.asarray(mean[name]).ravel() - right).max()) for name, right in exact(models).items())


class Site:
    """A site with a startup kit: NVFlare's filters, which have read its context, and the site's own FL context."""

    def __init__(self, name: str, kit: Path, server: Any) -> None:
        self.name = name
        self.context = FLContextManager(identity_name=name, job_id="bench").new_context()
        self.context.set_peer_context(server)
        self.encryptor, self.decryptor = HEModelEncryptor(), HEModelDecryptor()
        with startup_kit(kit):
            for each in (self.encryptor, self.decryptor):
                each.handle_event(EventType.START_RUN, self.context)

    def result(self, model: Model) -> Any:
        """What the site's training hands to its filters."""
        steps = {MetaKey.NUM_STEPS_CURRENT_ROUND: STEPS[self.name]}
        result = DXO(DataKind.WEIGHTS, data=dict(model), meta=steps).to_shareable()
        result.add_cookie(AppConstants.CONTRIBUTION_ROUND, 0)
        result.set_peer_props({ReservedKey.IDENTITY_NAME: self.name})
        return result


class Federation:
    """A server and three sites, provisioned into ``folder``; :meth:`round` plays a round."""

    def __init__(self, folder: Path) -> None:
        flare_decomposers.register()
        common_decomposers.register()
        project = Project("bench", "a round of homomorphic aggregation")
        project.set_server("server", "bench", {})
        for site in SITES:
            project.add_client(site, "bench", {})
        builders = [WorkspaceBuilder(), CertBuilder(), HEBuilder(), SignatureBuilder()]
        provisioned = Provisioner(str(folder), builders).provision(project, logger=logging.getLogger("nvflare"))
        self.kits = {
            name: Path(provisioned[CtxKey.CURRENT_PROD_DIR]) / name / "startup" for name in ("server", *SITES)
        }
        self.server = FLContextManager(identity_name="server", job_id="bench").new_context()
        self.server.set_prop(AppConstants.CURRENT_ROUND, 0, private=True, sticky=False)
        self.sites = {site: Site(site, self.kits[site], self.server) for site in SITES}
        self.aggregator = HEInTimeAccumulateWeightedAggregator(
            aggregation_weights=dict.fromkeys(SITES, 1.0),  # as without, but it logs no warning for each upload
            expected_data_kind=DataKind.WEIGHTS,
            weigh_by_local_iter=False,
        )
        self.generator = HEModelShareableGenerator()
        with startup_kit(self.kits["server"]):
            for each in (self.aggregator, self.generator):
                each.handle_event(EventType.START_RUN, self.server)

    def upload(self, site: str, model: Model, laps: Laps) -> bytes:
        """The bytes of the message in which ``site`` sends ``model``."""
        result = self.sites[site].result(model)
        with laps.part("encrypt"), quiet():
            result = self.sites[site].encryptor.process(result, self.sites[site].context)
        with laps.part("serialise"):
            return sent(result)

    def round(self, models: Mapping[str, Model], laps: Laps) -> tuple[Model, list[int], int]:
        """The mean that the first site gets, the bytes of each site's upload, and those of the download."""
        laps.start()
        uploads = {site: self.upload(site, model, laps) for site, model in models.items()}
        for data in uploads.values():
            with laps.part("parse the upload"):
                result = received(data)
            with laps.part("add and average"):
                require(self.aggregator.accept(result, self.server), "nvflare's aggregator")
        with laps.part("add and average"):
            data = sent(self._aggregated(next(iter(models.values()))))
        means = []
        for site in self.sites.values():
            with laps.part("parse the aggregate"):
                task = received(data)
            with laps.part("decrypt"):
                means.append(from_shareable(site.decryptor.process(task, site.context)).data)
        return means[0], [len(upload) for upload in uploads.values()], len(data)

    def _aggregated(self, model: Model) -> Any:
        blank = make_model_learnable({name: np.zeros_like(tensor) for name, tensor in model.items()}, {})
        self.server.set_prop(AppConstants.GLOBAL_MODEL, blank, private=True, sticky=False)
        learned = self.generator.shareable_to_learnable(self.aggregator.aggregate(self.server), self.server)
        return self.generator.learnable_to_shareable(learned, self.server)


def sent(payload: Any) -> bytes:
    """The bytes of a message with ``payload``, by the function that NVFlare's cells call."""
    message = Message(payload=payload)
    encode_payload(message)
    return b"".join(message.payload)


def received(data: bytes) -> Any:
    """The payload of a message, by the function that NVFlare's cells call."""
    message = Message({MessageHeaderKey.PAYLOAD_ENCODING: Encoding.FOBS}, data)
    decode_payload(message)
    return message.payload


@contextmanager
def startup_kit(kit: Path) -> Iterator[None]:
    """Have NVFlare read signed content from ``kit``. It has one kit in a process, and here are several parties."""
    kept = SecurityContentService.security_content_manager, SecurityContentService.content_folder
    SecurityContentService.security_content_manager = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # NVFlare leaves open files to the garbage collector
            SecurityContentService.initialize(content_folder=str(kit))
        yield
    finally:
        SecurityContentService.security_content_manager, SecurityContentService.content_folder = kept


def round_pair(protocol: AggregationProtocol, tensors: int, size: int) -> Pair:
    """A round of both: one unit is a value of a site's update. Both give the weighted mean of the same updates."""
    models, laps, our_laps = updates(tensors, size), Laps(), Laps()
    units = len(SITES) * tensors * size
    with TemporaryDirectory(prefix="secagg-bench-") as folder:
        federation = Federation(Path(folder))
    theirs, uploads, down = federation.round(models, Laps())
    require(most_off(theirs, models) < PRECISION, "nvflare")
    alone = {"all": np.concatenate([models[SITES[0]][name] for name in sorted(models[SITES[0]])])}
    single = Laps()
    single.start()
    alone_bytes = len(federation.upload(SITES[0], alone, single))
    task = task_for(protocol, models)
    ours = play(task, models, Laps())
    require(most_off(ours.mean, models) <= GRID, task.protocol.name)
    up, got = (max(sum(by_party[site].values()) for site in SITES) for by_party in (ours.bytes_up, ours.bytes_down))
    values = tensors * size
    sizes = [
        Part("theirs", f"upload of {tensors} tensors", bytes=max(uploads) / values),
        Part("theirs", "upload of all values in one tensor", bytes=alone_bytes / values),
        Part("theirs", "download of the encrypted mean", bytes=down / values),
        Part("ours", "upload", bytes=up / values),
        Part("ours", "download with the mean in float32", bytes=got / values + 4),
    ]
    return Pair(
        Call(lambda: federation.round(models, laps)),
        Call(lambda: play(task, models, our_laps)),
        their_units=units,
        our_units=units,
        their_bytes=max(uploads) / values,
        our_bytes=up / values,
        parts=lambda: [*laps.parts("theirs", units), *our_laps.parts("ours", units), *sizes],
    )


def task_for(protocol: AggregationProtocol, models: Mapping[str, Model]) -> secagg.Task:
    """The task of our round."""
    return secagg.Task(
        protocol=protocol,
        layout=secagg.Layout.of(models[SITES[0]]),
        encoding=secagg.FixedPoint(clip=CLIP, bits=BITS),
        max_clients=len(SITES),
        min_survivors=len(SITES),
        max_weight=max(STEPS.values()),
        context=b"bench",
    )


def play(task: secagg.Task, models: Mapping[str, Model], laps: Laps) -> secagg.Simulation:
    """One session, with the seconds of the sites, the server and, as one part, all other parties."""
    session = secagg.simulate(task, models, weights=STEPS)
    laps.start()
    for party, seconds in session.seconds.items():
        who = "sites" if party in SITES else "server" if party == "server" else "other parties"
        laps.add(who, sum(seconds.values()))
    return session
