"""A server that sends its model as another task, whose name no filter has: the executor takes it all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from nvflare.apis.controller_spec import Task
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.task_controller import TaskController
from nvflare.apis.shareable import ReservedHeaderKey, Shareable, make_reply
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.fuel.utils import fobs

from secagg.integrations.flare import SecureFilter
from tests.flare.document import policy
from tests.flare.federation import MODEL, Site, Training
from tests.flare.scenes import make_task

SECRET = np.random.default_rng(7).uniform(1, 2, MODEL["numpy_key"].shape).astype(np.float32)
BUDGET = {"secagg-epsilon": 1.0, "secagg-delta": 1e-5}


def train(site: str, request: Shareable) -> FLModel:
    return FLModel(params={"numpy_key": SECRET}, metrics={"loss": 0.5})


def sent(folder: Path, result: Any = train, *, task: str = "train_again", settings: Any = None) -> Shareable:
    """What a site sends for a task of this name; ``result`` is the executor's."""
    site = Site(folder, "site-1", [SecureFilter(make_task("semi-honest"))], result, settings)
    request = FLModelUtils.to_shareable(FLModel(params=MODEL, params_type=ParamsType.FULL, current_round=0))
    return site.run(request, task)


class Swarming(Training, TaskController):
    """An executor that sends each result on as a task of its own, as those of NVFlare's swarm learning do."""

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Any) -> Any:
        result = super().execute(task_name, shareable, fl_ctx, abort_signal)
        self.broadcast_and_wait(Task("report", result, timeout=1), fl_ctx, targets=["server"])
        return make_reply(ReturnCode.OK)


def swarm(folder: Path) -> tuple[str, bytes]:
    """A site with the filter in ``privacy.json``: its return code, and what leaves it in tasks of its own."""
    task, sent = SecureFilter(make_task("semi-honest")), list[bytes]()
    site = Site(folder, "site-1", [], train, {}, policy(task.task), Swarming("site-1", train))

    def send(request: Shareable, targets: list[str], **_: Any) -> dict[str, Shareable]:
        sent.append(fobs.dumps(dict(request)))
        return {target: make_reply(ReturnCode.OK) for target in targets}

    engine: Any = site.engine
    engine.validate_targets, engine.send_aux_request = lambda names: ([], []), send
    request = FLModelUtils.to_shareable(FLModel(params=MODEL, params_type=ParamsType.FULL, current_round=0))
    return site.run(request, "swarm_learn").get_return_code(), b"".join(sent)


def metrics(**values: Any) -> Any:
    return lambda *_: DXO(DataKind.METRICS, data=values, meta={"steps": 70}).to_shareable()


def is_held_back(reply: Shareable) -> bool:
    content = reply.keys() - {ReservedHeaderKey.HEADERS}
    return not content and reply.get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR


def test_what_is_held_back_is_named_in_the_sites_log(tmp_path: Path, caplog: Any) -> None:
    assert is_held_back(sent(tmp_path))
    assert "held back a result: got a result of task 'train_again', which secagg does not protect" in caplog.text


@pytest.mark.parametrize("task", ["evaluate", "validate"])  # without a filter, and with one
def test_the_numbers_of_an_evaluation_leave_and_nothing_beside_them(task: str, tmp_path: Path) -> None:
    reply = sent(tmp_path, metrics(loss=0.5, right=3), task=task)
    assert reply["DXO"] == {"kind": DataKind.METRICS, "data": {"loss": 0.5, "right": 3.0}, "meta": {}}
    assert reply.keys() == {"DXO", ReservedHeaderKey.HEADERS}


@pytest.mark.parametrize("task", ["evaluate", "validate"])
@pytest.mark.parametrize(
    "values",
    [
        {"update": SECRET},
        {"update": SECRET.ravel().tolist()},
        {"text": "0.5"},
        {f"m{number}": 0.5 for number in range(65)},
        {"m" * 129: 0.5},
        {"big": 10**400},
    ],
    ids=["array", "list", "text", "65", "name", "long integer"],
)
def test_more_than_the_numbers_of_an_evaluation_is_held_back(values: Any, task: str, tmp_path: Path) -> None:
    assert is_held_back(sent(tmp_path, metrics(**values), task=task))


def test_a_site_with_a_budget_answers_no_evaluation_unless_its_operator_says_so(tmp_path: Path) -> None:
    assert is_held_back(sent(tmp_path / "one", metrics(loss=0.5), task="evaluate", settings=BUDGET))
    allowed = sent(
        tmp_path / "two", metrics(loss=0.5), task="evaluate", settings=BUDGET | {"secagg-evaluate": True}
    )
    assert allowed["DXO"]["data"] == {"loss": 0.5}


def test_a_site_with_wrong_settings_says_so_without_their_path(tmp_path: Path, caplog: Any) -> None:
    assert is_held_back(sent(tmp_path, metrics(loss=0.5), task="validate", settings={"secagg-keys": "x"}))
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors
    assert not [error for error in errors if str(tmp_path) in error]
    assert f"{tmp_path}/site-1/local/secagg.json with secagg-keys" in caplog.text


def test_an_error_of_another_task_leaves_as_its_code(tmp_path: Path) -> None:
    failed = Shareable({"update": SECRET})
    failed.set_return_code(ReturnCode.EXECUTION_EXCEPTION)
    reply = sent(tmp_path, lambda *_: failed)
    assert reply.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert reply.keys() == {ReservedHeaderKey.HEADERS}
