"""One line before a recipe: what the job then contains, and the recipes and arguments that are refused."""

from __future__ import annotations

import base64
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from nvflare.app_common.filters.percentile_privacy import PercentilePrivacy
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.client.config import TransferType
from nvflare.recipe import set_per_site_config
from nvflare.recipe.cyclic import CyclicRecipe

import secagg
from secagg.errors import ConfigError
from secagg.integrations.flare import SecureAggregator, SecureFilter, SecureServer, layout_of, secured

MODEL = np.zeros((4, 5))
SCRIPT = str(Path(__file__).parent / "train.py")
METRICS = {"loss": 10.0}


def make_task(**changes: Any) -> secagg.Task:
    settings: dict[str, Any] = {
        "protocol": secagg.SecAgg(),
        "layout": layout_of(MODEL),
        "encoding": secagg.FixedPoint(clip=1.0),
        "max_clients": 10,
        "min_survivors": 4,
    }
    return secagg.Task(**settings | changes)


def make_recipe(recipe: Any = NumpyFedAvgRecipe, task: secagg.Task | None = None, **arguments: Any) -> Any:
    secure = secured(
        recipe,
        task or make_task(),
        roster="/keys/roster.json",
        metrics=METRICS,
        deadlines={secagg.Round.MASKED_INPUT: 20.0},
        training_seconds=60,
    )
    usual = {"name": "job", "model": MODEL, "min_clients": 4, "num_rounds": 1, "train_script": SCRIPT}
    return secure(**usual | arguments)


def export(recipe: Any, folder: Path) -> tuple[dict[str, Any], dict[str, Any], set[str]]:
    """The server's and the client's config, and the files of code that the job carries."""
    recipe.export(str(folder))
    configs = [json.loads(path.read_text()) for path in sorted(folder.rglob("config_fed_*.json"), reverse=True)]
    return configs[0], configs[1], {path.name for path in folder.rglob("custom/**/*.py")}


def test_the_job_names_our_parts_and_carries_none_of_our_code(tmp_path: Path) -> None:
    recipe = make_recipe(key_metric="loss", stop_cond="loss <= 0.1")
    recipe.add_client_output_filter(PercentilePrivacy(), tasks=["train"])
    server, client, code = export(recipe, tmp_path)
    controller = server["workflows"][0]
    assert controller["path"] == "secagg.integrations.flare.SecureFedAvg"
    assert controller["args"]["training_seconds"] == 60
    assert controller["args"]["ignore_result_error"] is True
    aggregator = controller["args"]["aggregator"]
    assert aggregator["path"] == "secagg.integrations.flare.SecureAggregator"
    text = aggregator["args"].pop("task")
    assert secagg.Task.from_bytes(base64.b64decode(text)).layout.size == MODEL.size + len(METRICS)
    assert aggregator["args"] == {
        "roster": "/keys/roster.json", "parties": {}, "deadlines": {"MaskedInput": 20.0}, "key_metric": "loss",
        "key_metric_mode": "min",
    }  # fmt: skip
    assert "model_selector" not in {component["id"] for component in server["components"]}
    filters = [each for found in client["task_result_filters"] for each in found["filters"]]
    assert [each["path"].rpartition(".")[2] for each in filters] == ["PercentilePrivacy", "SecureFilter"]
    assert filters[-1] == {"path": "secagg.integrations.flare.SecureFilter", "args": {"task": text}}
    events = {component["id"]: component["args"] for component in client["components"]}["event_to_fed"]
    assert events == {"events_to_convert": []}  # what a script logs for experiment tracking stays in the site
    assert code == {"train.py"}


def test_a_recipe_keeps_the_arguments_of_its_own_controller(tmp_path: Path) -> None:
    class Proximal(NumpyFedAvgRecipe):
        def _get_controller_kwargs(self) -> dict[str, Any]:
            return super()._get_controller_kwargs() | {"fedprox_mu": 0.5}

    server, *_ = export(make_recipe(Proximal), tmp_path)
    assert server["workflows"][0]["args"]["fedprox_mu"] == 0.5


class Own(ModelAggregator):
    accept_model = aggregate_model = reset_stats = lambda *_: None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"aggregator": Own()}, "got aggregator= for a secured recipe: secured brings its own"),
        ({"aggregation_weights": {"site-1": 2.0}}, "got aggregation_weights= .* give the task a max_weight"),
        ({"exclude_vars": "bias"}, "got exclude_vars= .* leave them out of the model"),
        ({"params_transfer_type": TransferType.DIFF}, "got params_transfer_type=.*DIFF for all sites"),
        ({"min_clients": 3}, "got min_clients=3; the task needs 4 to 10"),
        ({"min_clients": 11}, "got min_clients=11; the task needs 4 to 10"),
        ({"key_metric": "accuracy"}, "got key_metric= on 'accuracy', which is not in the sum"),
        ({"stop_cond": "accuracy >= 80"}, "got stop_cond= on 'accuracy', which is not in the sum"),
        ({"train_args": "--secagg-key /keys/a.pem"}, "got train_args= with bytes or a key"),
        ({"train_args": b"x"}, "got train_args= with bytes or a key"),
        ({"per_site_config": {"site-1": {"train_args": b"x"}}}, "got per_site_config= with bytes or a key"),
        ({"model": {"class_path": "a.B", "args": {"k": "PRIVATE KEY"}}}, "got model= with bytes or a key"),
        ({"stop_cond": "loss<=0.1"}, "got stop_cond='loss<=0.1'; expected a metric, .* with single spaces"),
        ({"model": np.zeros(3)}, r"array 'numpy_key' has shape \(3,\); the task's layout says \(4, 5\)"),
    ],
)
def test_an_argument_that_needs_more_than_the_mean_is_refused(arguments: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        make_recipe(**arguments)


def test_settings_of_single_sites_keep_the_whole_model() -> None:
    four: dict[str, Any] = {f"site-{number}": {"train_args": "x"} for number in range(1, 5)}
    set_per_site_config(make_recipe(), four)
    four["site-2"]["params_transfer_type"] = TransferType.DIFF
    with pytest.raises(ConfigError, match="DIFF for site-2"):
        set_per_site_config(make_recipe(), four)
    four["site-2"] = {"train_args": "--secagg-key /keys/site-2.pem"}
    with pytest.raises(ConfigError, match="got train_args= for site-2 with bytes or a key"):
        set_per_site_config(make_recipe(), four)


def test_settings_of_single_sites_differ_only_where_the_server_is_trusted() -> None:
    four = {f"site-{number}": {"train_args": str(number)} for number in range(1, 5)}
    with pytest.raises(
        ConfigError, match="got a config for each site, which would let a job make all sites but one"
    ):
        set_per_site_config(make_recipe(), four)
    trusting = make_task(protocol=secagg.SecAgg(threat_model="semi-honest"))
    set_per_site_config(make_recipe(task=trusting), four)


@pytest.mark.parametrize(
    ("recipe", "error"),
    [
        (
            CyclicRecipe,
            "got CyclicRecipe, which passes the model of one site on to the next; expected a FedAvgRecipe",
        ),
        (make_recipe, "got make_recipe, which is not a FedAvg recipe"),
    ],
)
def test_another_recipe_is_refused(recipe: Any, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        secured(recipe, make_task())


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("fedavg_he.FedAvgRecipeWithHE", "which gives every site one secret key; use the plain recipe"),
        ("scaffold.ScaffoldRecipe", "which sends control terms beside the model"),
        ("swarm.SwarmLearningRecipe", "which lets a site aggregate"),
        ("swarm.BaseSwarmLearningRecipe", "which lets a site aggregate"),
        ("fedopt.FedOptRecipe", "which aggregates by another controller than FedAvg"),
        ("fedeval.FedEvalRecipe", "which is not a FedAvg recipe"),
        ("fedce.FedCERecipe", "which takes no aggregator="),
    ],
)
def test_a_recipe_of_pytorch_that_needs_more_than_the_mean_is_refused(name: str, error: str) -> None:
    pytest.importorskip("torch", reason="needs PyTorch")
    module, _, recipe = name.partition(".")
    found = getattr(importlib.import_module(f"nvflare.app_opt.pt.recipes.{module}"), recipe)
    with pytest.raises(ConfigError, match=f"got {recipe}, {error}.*; expected a FedAvgRecipe of NVFlare"):
        secured(found, make_task())


def test_a_recipe_with_an_aggregator_of_its_own_is_refused() -> None:
    pytest.importorskip("joblib", reason="needs scikit-learn, for NVFlare's recipe of k-means")
    from nvflare.app_opt.sklearn.recipes.kmeans import KMeansFedAvgRecipe

    with pytest.raises(ConfigError, match="got KMeansFedAvgRecipe, which takes no aggregator="):
        secured(KMeansFedAvgRecipe, make_task())

    class Strange(NumpyFedAvgRecipe):
        def _get_model_aggregator(self) -> Any:
            return Own()

    with pytest.raises(ConfigError, match="got a recipe that puts Own in the place of SecureAggregator"):
        make_recipe(Strange)


def test_a_recipe_that_is_made_already_is_refused() -> None:
    usual = {"name": "job", "model": MODEL, "min_clients": 4, "num_rounds": 1, "train_script": SCRIPT}
    with pytest.raises(ConfigError, match=r"made already; .* secured\(NumpyFedAvgRecipe, TASK\)\(...\)"):
        secured(NumpyFedAvgRecipe(**usual), make_task())  # type: ignore[arg-type]


def test_a_recipe_with_a_controller_of_its_own_is_refused() -> None:
    class Strange(NumpyFedAvgRecipe):
        def _create_controller(self, *arguments: Any, **named: Any) -> Any:
            return Own()

    with pytest.raises(ConfigError, match="got a recipe with the controller Own, which may need more"):
        make_recipe(Strange)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (
            lambda: secured(NumpyFedAvgRecipe, make_task(), roster=Path("r")),  # type: ignore[arg-type]
            "got a roster that is a PosixPath; expected its path",
        ),
        (lambda: secured(NumpyFedAvgRecipe, None, metrics=METRICS), "got a task that is a NoneType"),  # type: ignore[arg-type]
        (lambda: secured(NumpyFedAvgRecipe, make_task(), training_seconds=-1), "got training_seconds=-1"),
        (lambda: SecureFilter(b"\0task"), "got a task that is a bytes; expected a secagg.Task"),
        (lambda: SecureFilter("???"), "got a text as the task that is not base64 of a task's bytes"),
        (lambda: SecureAggregator("bm8gdGFzaw=="), r"not base64 of a task's bytes \(.*\); expected a secagg.Task"),
        (lambda: SecureFilter(make_task(), metrics=["loss"]), r"got metrics=\['loss'\]; expected a dict of names"),
        (lambda: secured(NumpyFedAvgRecipe, make_task(), parties={"d": 1}), "got parties=.*; expected the party's"),
        (lambda: secured(NumpyFedAvgRecipe, make_task(), parties={"d": b"x"}), "got parties= with bytes or a key"),
        (
            lambda: secured(NumpyFedAvgRecipe, make_task(), deadlines=float("nan")),
            "got deadlines=nan; expected sec",
        ),
        (
            lambda: secured(NumpyFedAvgRecipe, make_task(), deadlines={"Masked": 20.0}),
            "got deadlines= for 'Masked'; SecAgg has Introduction, .*MaskedInput",
        ),
        (
            lambda: secured(NumpyFedAvgRecipe, make_task(), deadlines={"MaskedInput": -1}),
            "got deadlines=-1 for MaskedInput; expected seconds, not below 0",
        ),
        (lambda: SecureServer(make_task(), training_seconds=-1), "got training_seconds=-1; expected seconds"),
        (
            lambda: SecureAggregator(make_task(), key_metric="loss"),
            "got key_metric='loss', which is not in the sum",
        ),
    ],
)
def test_an_argument_of_ours_that_does_not_fit_is_refused(call: Any, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        call()


class Dense:
    def __init__(self, name: str, *arrays: Any) -> None:
        self.name, self.arrays = name, list(arrays)

    def get_weights(self) -> list[Any]:
        return self.arrays


def test_layouts_have_the_names_that_nvflare_gives_to_arrays() -> None:
    keras = Dense("model")
    keras.layers = [Dense("in"), Dense("out", np.zeros((3, 2)), np.zeros(2))]  # type: ignore[attr-defined]
    assert {leaf.name: leaf.shape for leaf in layout_of(keras).leaves} == {"out_nvf_0": (3, 2), "out_nvf_1": (2,)}
    assert [leaf.name for leaf in layout_of([[1.0, 2.0]]).leaves] == ["numpy_key"]
    assert layout_of({"a": MODEL}) == secagg.Layout.of({"a": MODEL})
