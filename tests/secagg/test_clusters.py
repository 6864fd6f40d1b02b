"""Dask's and Ray's worker processes do the work of roles: the same bits, also if one is killed in a round."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg import lanes as lanes_module
from secagg.errors import ConfigError
from secagg.table import Round
from secagg.testing import Session, parties_for
from tests.secagg.clusters import Cluster, Deadly, OnWorkers, block, dask_over_tls, ray_of_processes
from tests.secagg.opened import SMALL, Opened

pytestmark = [
    pytest.mark.stacks,
    # Ray leaves files of /dev/null open, and its processes to the system, when it has started them.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

STARTERS = {"dask": ("distributed", dask_over_tls), "ray": ("ray", ray_of_processes)}
INPUTS = {
    "SecAgg": (secagg.SecAgg(), Round.MASKED_INPUT),
    "AdditiveShares": (secagg.AdditiveShares(kem="X25519"), Round.REPORT),
    "OneShot": (SMALL, Round.INPUT),
    "BFV": (secagg.BFV(), Round.INPUT),
    "Paillier": (secagg.Paillier(), Round.INPUT),
}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in STARTERS]
)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    package, start = STARTERS[request.param]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    # A socket's path has at most 107 bytes; in the folder of a worker of pytest, those of Ray's have more.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, start(Path(folder)) as started:
        yield started


@pytest.fixture(scope="module")
def opened() -> dict[str, Opened]:
    return {name: Opened(*kind) for name, kind in INPUTS.items()}


@pytest.fixture(autouse=True)
def split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sums are split too."""
    monkeypatch.setattr(lanes_module, "_INLINE_LANES", 0)
    monkeypatch.setattr(lanes_module, "_RANGE_LANES", 1000)
    monkeypatch.setattr(lanes_module, "_KEYS_IN_TASK", 3)


def session_on(protocol: Any, size: int, executor: Any) -> Session:
    """One whose server and other parties have an executor."""
    known = parties_for(protocol, 5)
    task = known.make_task(
        layout=secagg.Layout.of({"w": np.zeros(size)}),
        max_weight=None,
        encoding=secagg.FixedPoint(clip=1.0, bits=30, rounding="nearest"),
    )
    session = Session(known, task=task, contribute=False)
    session.server = task.server(known.cohort, roster=known.roster, session=session.name, executor=executor)
    for party in session.members:
        session.members[party] = session.make(party, executor=executor)
    for party in known.cohort:
        session.contribute(party)
    return session


@pytest.mark.parametrize(
    ("protocol", "size"),
    [
        (secagg.SecAgg(threat_model="semi-honest"), 3000),
        (secagg.AdditiveShares(kem="X25519"), 3000),
        (SMALL, 420_000),
        (secagg.Paillier(), 300),
        (secagg.BFV(), 150_000),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_masks_are_removed_and_sums_are_opened_exactly(cluster: Cluster, protocol: Any, size: int) -> None:
    executor = OnWorkers(cluster.executor())
    session_on(protocol, size, executor).require_completes("on a cluster")
    assert executor.tasks > 1


def test_the_caller_works_too_while_it_waits(cluster: Cluster) -> None:
    session_on(secagg.SecAgg(threat_model="semi-honest"), 20_000, cluster.executor()).require_completes("together")


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("parts", [2, 7])
def test_inputs_are_added_up_by_workers(cluster: Cluster, opened: dict[str, Opened], name: str, parts: int) -> None:
    server = opened[name].restored(OnWorkers(cluster.executor()))
    opened[name].require_like_alone(server, server.receive_all(opened[name].messages, parts))


def shards_of(cluster: Cluster, case: Opened) -> dict[str, Any]:
    """What the document's code on shards leaves behind, once it has run up to ``absorb``."""
    names: dict[str, Any] = {
        "__name__": "shards",  # of no module, so that the class itself is sent to the workers
        "task": case.session.task,
        "roster": case.session.parties.roster,
        "server": case.restored(None),
        "messages": case.messages,
        "onward": [],
    }
    names["forward"] = lambda sent: names["onward"].extend(sent.items())
    exec(block("python", "class Shard"), names)
    names["Shard"].die = lambda self: os.kill(os.getpid(), signal.SIGKILL)
    before, absorbs = cluster.shards(names).split("server.absorb")
    exec(before, names)
    names["absorb"] = "server.absorb" + absorbs
    return names


def test_shards_on_the_workers_take_what_arrives_there(cluster: Cluster, opened: dict[str, Opened]) -> None:
    """An input of OneShot is added up in its shard, and has parts for others, which the shard hands on."""
    names = shards_of(cluster, opened["OneShot"])
    assert names["onward"]
    exec(names["absorb"], names)
    opened["OneShot"].require_like_alone(names["server"], names["onward"])


@pytest.mark.parametrize("name", ["SecAgg", "OneShot"])
def test_inputs_are_added_up_though_a_worker_is_killed(
    cluster: Cluster, opened: dict[str, Opened], name: str, tmp_path: Path
) -> None:
    deadly = Deadly(cluster.executor(), tmp_path / "killed")
    server = opened[name].restored(deadly)
    opened[name].require_like_alone(server, server.receive_all(opened[name].messages, 4))
    assert (tmp_path / "killed").exists()


def test_masks_are_removed_though_a_worker_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    session = session_on(secagg.SecAgg(threat_model="semi-honest"), 3000, None)
    session.until(Round.UNMASKING)
    session.exchange(session.outbox or {})
    state = session.server.to_bytes()
    session.close()
    deadly = Deadly(cluster.executor(), tmp_path / "killed")
    other = session.task.restore_server(state, roster=session.parties.roster, executor=deadly)
    other.close_round()
    assert (tmp_path / "killed").exists()
    assert other.outcome == session.server.outcome


def test_where_every_worker_dies_the_round_is_open_as_before(cluster: Cluster, opened: dict[str, Opened]) -> None:
    case = opened["SecAgg"]
    deadly = Deadly(cluster.executor())
    server = case.restored(deadly)
    before, pending, faults = server.to_bytes(), server.pending, server.faults
    with pytest.raises(Exception, match=r"(?i)(worker|node).*(died|crash|kill)") as lost:
        server.receive_all(case.messages, 4)
    assert not isinstance(lost.value, ConfigError)
    assert (server.to_bytes(), server.pending, server.faults) == (before, pending, faults)
    case.require_like_alone(server, server.receive_all(case.messages, 4))


def test_a_lost_shard_is_made_anew_from_its_messages(cluster: Cluster, opened: dict[str, Opened]) -> None:
    case = opened["SecAgg"]
    names = shards_of(cluster, case)
    first, *others = names["shards"]
    for method in ("die", "part"):
        # Dask never answers a call that reaches the worker's next process, which knows no such shard. Its error
        # then says "timed out", or nothing at all: two of its timers run for the same time.
        with pytest.raises(Exception) as lost:
            cluster.call(first, method, seconds=20)
        known = re.search(r"(?i)lost|died|unable to contact", str(lost.value))
        assert known or isinstance(lost.value, TimeoutError), repr(lost.value)
    another = names["Shard"](names["task"], names["roster"], names["opened"])
    for sender, data in case.messages:
        if zlib.crc32(sender.encode()) % len(names["shards"]) == 0:
            names["forward"](another.receive(sender, data))
    assert names["server"].to_bytes() == case.restored(None).to_bytes()
    names["server"].absorb(another.part(), *(cluster.call(shard, "part") for shard in others))
    case.require_like_alone(names["server"], names["onward"])
