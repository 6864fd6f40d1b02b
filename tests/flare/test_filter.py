"""Results that NVFlare's ``DXOFilter`` passes through, and what leaves of a model that ``SecureFilter`` knows.

Each result is sent through NVFlare's own task runner. ``test_flare_attacks.py`` has the results that are passed
through, with a filter that is written as NVFlare's are as the control.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from nvflare.apis.dxo import DXO, DataKind, MetaKey
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

import secagg
from secagg.errors import ConfigError
from secagg.integrations._flare_ways_out import check_shell
from secagg.integrations.flare import SecureFilter
from tests.flare.document import block, policy
from tests.flare.federation import MODEL, Site

SECRET = np.random.default_rng(7).uniform(1, 2, MODEL["numpy_key"].shape).astype(np.float32)
TASK = secagg.Task(
    protocol=secagg.SecAgg(threat_model="semi-honest"),
    layout=secagg.Layout.of(MODEL),
    encoding=secagg.FixedPoint(clip=2.0),
    max_clients=4,
    min_survivors=3,
)


class Passing(DXOFilter):  # type: ignore[misc]
    """A filter as NVFlare's are: it protects the model that it knows."""

    def __init__(self) -> None:
        super().__init__([DataKind.WEIGHTS], None)

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: Any) -> DXO | None:
        shapes = {name: np.shape(array) for name, array in dxo.data.items()}
        if shapes != {name: array.shape for name, array in MODEL.items()}:
            return None
        return DXO(dxo.data_kind, data={name: np.zeros(shape) for name, shape in shapes.items()})


def dxo(kind: str = DataKind.WEIGHTS, data: Any = None, **meta: Any) -> Shareable:
    return DXO(kind, data=data, meta=meta).to_shareable()


def coded(code: str) -> Shareable:
    result = dxo(data={"numpy_key": SECRET})
    result.set_return_code(code)
    return result


def without_data() -> Shareable:
    result = dxo(data={"numpy_key": SECRET}, steps=SECRET)
    result["DXO"]["data"] = None
    return result


RESULTS: dict[str, Callable[[], Shareable]] = {
    "a return code that is not OK": lambda: coded(ReturnCode.EXECUTION_EXCEPTION),
    "a return code of its own": lambda: coded(SECRET.tobytes().hex()),
    "no DXO": lambda: Shareable({"weights": SECRET}),
    "a DXO without data": without_data,
    "a collection": lambda: dxo(DataKind.COLLECTION, {"a": DXO(DataKind.WEIGHT_DIFF, data={"numpy_key": SECRET})}),
    "a difference": lambda: dxo(DataKind.WEIGHT_DIFF, {"numpy_key": SECRET}),
    "metrics": lambda: dxo(DataKind.METRICS, {"loss": SECRET}),
    "another kind": lambda: dxo(DataKind.STATISTICS, {"numpy_key": SECRET}),
    "empty data": lambda: dxo(data={}, initial_metrics=SECRET),
    "another name": lambda: dxo(data={"other": SECRET}),
    "one name more": lambda: dxo(data={"numpy_key": SECRET, "other": np.zeros(1)}),
    "another shape": lambda: dxo(data={"numpy_key": SECRET.ravel()}),
}


def request() -> Shareable:
    return FLModelUtils.to_shareable(FLModel(params=MODEL, params_type=ParamsType.FULL, current_round=0))


def make_site(
    folder: Path, filters: list[Any], result: Shareable, privacy: Any = None, shell: bool = False
) -> Site:
    return Site(folder, "site-1", filters, lambda site, model: result, settings={}, privacy=privacy, shell=shell)


def plain_job(folder: Path, privacy: Any) -> tuple[str, bool]:
    """The return code of a site's result in a job without ``SecureFilter``, and whether the model is in it."""
    site = make_site(folder, [], dxo(data={"numpy_key": SECRET}), privacy)
    return site.run(request()).get_return_code(), is_found(site.sent[0])


def is_found(data: bytes) -> bool:
    return SECRET.tobytes() in data or SECRET.tobytes().hex().encode() in data


def test_control_a_dxo_filter_protects_what_it_knows(tmp_path: Path) -> None:
    site = make_site(tmp_path, [Passing()], dxo(data={"numpy_key": SECRET}))
    site.run(request())
    assert not is_found(site.sent[0])


def test_of_a_model_that_it_knows_a_placeholder_leaves(tmp_path: Path) -> None:
    result = dxo(
        data={"numpy_key": SECRET}, **{MetaKey.NUM_STEPS_CURRENT_ROUND: 70_001, "initial_metrics": {"loss": 1.5}}
    )
    site = make_site(tmp_path, [SecureFilter(TASK)], result)
    reply = site.run(request())
    sent = FLModelUtils.from_shareable(reply)
    assert {name: array.tolist() for name, array in sent.params.items()} == {"secagg": [0.0]}
    assert (sent.metrics, sent.meta) == (None, {})
    assert set(reply) == {"__headers__", "DXO"}
    expected = {
        AppConstants.CURRENT_ROUND,
        "__rc__",
        "__task_name__",
        "__task_id__",
        "__audit_event_id__",
        "__content_type__",
    }
    assert set(reply["__headers__"]) <= expected
    assert not is_found(site.sent[0])


@pytest.mark.parametrize("task", ["validate", "submit_model"])
def test_results_of_other_tasks_stay_in_the_site(task: str, tmp_path: Path) -> None:
    site = make_site(tmp_path, [SecureFilter(TASK)], dxo(data={"numpy_key": SECRET}))
    reply = site.run(request(), task)
    assert reply.get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
    assert not is_found(site.sent[0])


def test_a_site_that_has_the_filter_too_sends_one_placeholder(tmp_path: Path) -> None:
    site = make_site(
        tmp_path, [SecureFilter(TASK)], dxo(data={"numpy_key": SECRET}), policy(SecureFilter(TASK).task)
    )
    reply = site.run(request())
    assert reply.get_return_code() == ReturnCode.OK
    assert {name: array.tolist() for name, array in reply["DXO"]["data"].items()} == {"secagg": [0.0]}


class Withholding(Passing):
    """A filter that lets nothing through, and leaves the run's context as it is."""

    def process(self, shareable: Shareable, fl_ctx: Any) -> Shareable:
        return Shareable()


class Restoring(Passing):
    """A filter of the job that puts back what it finds in the run's context."""

    def process(self, shareable: Shareable, fl_ctx: Any) -> Shareable:
        return fl_ctx.get_prop(FLContextKey.TASK_RESULT) or shareable


def test_a_later_filter_finds_nothing_of_a_result_that_was_held_back(tmp_path: Path) -> None:
    for number, result in enumerate(RESULTS.values()):
        site = make_site(tmp_path / str(number), [SecureFilter(TASK), Restoring()], result())
        assert site.run(request()).get_return_code() != ReturnCode.OK
        assert not is_found(site.sent[0])
    control = make_site(tmp_path / "control", [Withholding(), Restoring()], dxo(data={"numpy_key": SECRET}))
    control.run(request())
    assert is_found(control.sent[0])


def test_the_task_that_trains_may_have_another_name(tmp_path: Path) -> None:
    site = make_site(tmp_path, [SecureFilter(TASK, train_task="validate")], dxo(data={"numpy_key": SECRET}))
    sent = site.run(request(), "validate")
    assert {name: array.tolist() for name, array in sent["DXO"]["data"].items()} == {"secagg": [0.0]}
    assert site.run(request(), "train").get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
    assert not any(map(is_found, site.sent))


def test_a_site_whose_key_a_lying_server_can_read_takes_no_part(tmp_path: Path) -> None:
    site = make_site(tmp_path, [SecureFilter(TASK)], dxo(data={"numpy_key": SECRET}), shell=True)
    local = tmp_path / "site-1" / "local"
    with site.engine.new_context() as fl_ctx:
        check_shell(TASK, str(local), fl_ctx)  # the server is trusted to follow the protocol
        task = replace(TASK, protocol=secagg.SecAgg())
        for listed in (None, {"components": [{"id": "a", "path": "b.C"}]}):
            if listed is not None:
                (local / "resources.json").write_text(json.dumps(listed))
            with pytest.raises(ConfigError, match="a server that lies can read by NVFlare's shell commands"):
                check_shell(task, str(local), fl_ctx)
        fl_ctx.set_prop(FLContextKey.SIMULATE_MODE, True)
        check_shell(task, str(local), fl_ctx)
        fl_ctx.set_prop(FLContextKey.SIMULATE_MODE, False)
        (local / "secagg__p_resources.json").write_text(block("json", "NoShell"))
        check_shell(task, str(local), fl_ctx)


def test_a_site_without_that_component_sends_nothing(tmp_path: Path, caplog: Any) -> None:
    task = replace(TASK, protocol=secagg.SecAgg())
    site = make_site(tmp_path, [SecureFilter(task)], dxo(data={"numpy_key": SECRET}), shell=True)
    assert site.run(request()).get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
    assert "this site can't take part: ConfigError: got a site whose private key a server" in caplog.text
    assert not any(map(is_found, site.sent))
