import io
import json
import math
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
from rich.console import Console

from secagg import Clear, ConfigError, SecAgg, SecAggError, Server
from secagg.demo import baseline, model, training
from secagg.demo.dropouts import Silence, absentees, plan, silent_rounds
from secagg.demo.hospitals import FARTHEST, FEATURES, LEAST_PATIENTS, Hospital, load
from secagg.demo.learner import ENCODING
from secagg.demo.plot import draw
from secagg.demo.settings import Settings
from secagg.demo.table import to_json, to_table
from secagg.demo.training import Demo, run
from secagg.protocols import named
from secagg.table import input_round, rounds

SETTINGS = Settings(rounds=6)
_BUDGET = training._budget
_BEFORE_IT_LEAVES = rounds(SecAgg())[: rounds(SecAgg()).index(input_round(SecAgg())) + 1]


@pytest.fixture(scope="module")
def demo() -> Demo:
    return run(SETTINGS, named())


def by_name(demo, name):
    return next(one for one in demo.runs if one.protocol == name)


def print_table(demo, width=80):
    text = io.StringIO()
    Console(width=width, file=text).print(to_table(demo))
    return text.getvalue()


# --- what every run of the demo must hold


def test_secagg_and_clear_end_with_the_same_weights_to_the_last_bit(demo):
    secagg, clear = by_name(demo, "SecAgg").model, by_name(demo, "Clear").model
    assert all(secagg[name].tobytes() == clear[name].tobytes() for name in clear)
    assert any(clear["weights"])


def test_weights_differ_from_float64_by_no_more_than_quantization(demo):
    """A round adds at most e = max_weight·n·Δ/2 / total weight to a parameter, √31·e to the distance.

    Training on a hospital's patients never drives two models apart: a gradient step on a convex loss
    whose gradient is L-Lipschitz doesn't while the rate is at most 2/L, and the logistic loss has L = λ/4
    with λ the largest eigenvalue of XᵀX/n. A mean doesn't either. So the distances of the rounds add up.
    """
    hospitals = {hospital.id: hospital for hospital in demo.problem.study.hospitals}
    for hospital in hospitals.values():
        with_bias = np.column_stack([hospital.features, np.ones(hospital.patients)])
        largest = np.linalg.eigvalsh(with_bias.T @ with_bias / hospital.patients)[-1]
        assert model.RATE * largest / 8 <= 1
    step = ENCODING.clip / (2 ** (ENCODING.bits - 1) - 1)
    most = max(hospital.patients for hospital in hospitals.values())
    for one in demo.runs:
        bound = 0.0
        for aggregation in one.aggregations:
            total = sum(hospitals[survivor].patients for survivor in aggregation.survivors)
            error = most * len(aggregation.survivors) * step / 2 / total
            bound += math.sqrt(FEATURES + 1) * error
            assert aggregation.clipped == 0
        assert 0 < one.difference <= bound < 2e-3
        apart = [np.abs(one.model[name] - demo.float64_model[name]).max() for name in one.model]
        assert one.difference == max(apart)


def test_accuracy_is_that_of_float64_to_within_one_patient(demo):
    for one in demo.runs:
        assert abs(one.correct - demo.float64_correct[-1]) <= 1
    assert demo.float64_correct[-1] / demo.problem.tested > 0.9


def test_hospitals_fall_silent_in_every_round_of_every_protocol(demo):
    assert set(rounds(SecAgg())) == {
        name for aggregation in by_name(demo, "SecAgg").aggregations for name in aggregation.dropped.values()
    }
    for one in demo.runs:
        used = {name for aggregation in one.aggregations for name in aggregation.dropped.values()}
        assert used == set(rounds(named()[one.protocol]))


def test_two_hospitals_fall_silent_each_time_in_different_rounds(demo):
    for aggregation in by_name(demo, "SecAgg").aggregations:
        assert len(aggregation.dropped) == len(set(aggregation.dropped.values())) == 2


def test_who_falls_silent_by_the_input_is_not_in_the_sum_and_who_does_later_is(demo):
    names = rounds(SecAgg())
    until = names.index(input_round(SecAgg())) + 1
    everyone = {hospital.id for hospital in demo.problem.study.hospitals}
    for aggregation in by_name(demo, "SecAgg").aggregations:
        absent = {party for party, name in aggregation.dropped.items() if name in names[:until]}
        assert set(aggregation.survivors) == everyone - absent


def test_the_same_hospitals_are_in_the_sum_under_every_protocol(demo):
    stories = {tuple(aggregation.survivors for aggregation in one.aggregations) for one in demo.runs}
    assert len(stories) == 1
    assert len(demo.runs) >= 2


def test_bytes_are_what_the_protocol_says_they_cost(demo):
    """Fewer than with nobody dropping out, and not by much; Clear sends the same, whichever clients drop out."""
    clear, secagg = by_name(demo, "Clear"), by_name(demo, "SecAgg")
    assert 31 * 20 / 8 < clear.bytes_up < 31 * 20 / 8 + 300
    assert clear.bytes_up < secagg.bytes_up < 4000
    assert clear.bytes_down < secagg.bytes_down < 8000


def test_epsilon_is_what_the_hospitals_were_charged(monkeypatch):
    held = []
    monkeypatch.setattr(training, "_budget", lambda *args: held.append(_BUDGET(*args)) or held[-1])
    (_, noised) = run(Settings(rounds=4, epsilon=8.0), {"SecAgg": SecAgg()}).runs
    assert len(held) == 10
    uploads = sorted(
        4 - sum(one.dropped.get(f"hospital-{at:02}") in _BEFORE_IT_LEAVES for one in noised.aggregations)
        for at in range(1, 11)
    )
    assert sorted(budget.report().releases for budget in held) == uploads
    assert uploads[0] < 4 == uploads[-1]
    assert noised.epsilon == max(budget.spent for budget in held)
    assert 7.9 < noised.epsilon <= 8.0


def test_under_clear_a_hospital_pays_for_its_own_noise_alone():
    (_, noised) = run(Settings(rounds=2, epsilon=8.0), {"Clear": Clear()}).runs
    assert 7.9 < noised.epsilon <= 8.0


def test_no_word_is_lost_on_eighty_columns():
    demo = run(Settings(rounds=2, epsilon=8.0), named())
    shown = set(print_table(demo).split())
    assert all(set(one.collusion.split()) <= shown for one in demo.runs)
    assert {f"{one.bytes_down:,.0f}" for one in demo.runs} | {f"{demo.runs[-1].epsilon:.2f}"} <= shown


# --- what the seed decides


def test_one_seed_gives_one_result_and_another_another():
    def outcome(seed):
        return json.dumps(to_json(run(Settings(rounds=2, seed=seed), {"Clear": Clear()})))

    assert outcome(3) == outcome(3)
    assert outcome(3) != outcome(4)


def test_the_seed_draws_no_key_and_no_mask(monkeypatch):
    sent = []
    receive = Server.receive

    def recorded(self, sender, data):
        sent[-1].append(data)
        return receive(self, sender, data)

    monkeypatch.setattr(Server, "receive", recorded)
    for _ in range(2):
        sent.append([])
        run(Settings(rounds=1, dropouts=0), {"SecAgg": SecAgg()})
    # One session trains, one is drawn.
    assert len(sent[0]) == len(sent[1]) == 2 * 10 * len(rounds(SecAgg()))
    assert not set(sent[0]) & set(sent[1])


# --- the data, the model and the baseline


@pytest.mark.parametrize("hospitals", [2, 10, 50])
def test_shards_are_disjoint_and_no_patient_is_lost(hospitals):
    study = load(hospitals, np.random.default_rng(1))
    shards = [*study.hospitals, study.test]
    rows = np.concatenate([np.column_stack([shard.features, shard.labels]) for shard in shards])
    assert len(rows) == len(np.unique(rows, axis=0)) == 569
    assert rows[:, -1].sum() == 212
    assert min(hospital.patients for hospital in study.hospitals) >= LEAST_PATIENTS
    assert (study.test.patients, study.test.malignant) == (357 // 5 + 212 // 5, 212 // 5)
    training = np.concatenate([hospital.features for hospital in study.hospitals])
    np.testing.assert_allclose(training.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(training.std(axis=0), 1)


def test_under_epsilon_scaling_tells_nothing_of_other_patients(monkeypatch):
    """Where one patient's features change, those of the others stay; scaled by sums over all, they don't."""
    from sklearn import datasets

    data = datasets.load_breast_cancer()

    def rows(plausible):
        study = load(10, np.random.default_rng(1), plausible=plausible)
        return np.concatenate([part.features for part in (*study.hospitals, study.test)])

    before = {plausible: rows(plausible) for plausible in (False, True)}
    data.data[100] *= 3
    monkeypatch.setattr(datasets, "load_breast_cancer", lambda: data)
    changed = {plausible: np.any(rows(plausible) != before[plausible], axis=1).sum() for plausible in before}
    assert changed == {False: 569, True: 1}
    assert np.abs(before[True]).max() == FARTHEST
    assert np.mean(np.abs(before[True]) == FARTHEST) < 0.05


@pytest.mark.parametrize("epsilon", [None, 64.0])
def test_only_a_training_with_epsilon_scales_by_constants(epsilon):
    study = run(Settings(rounds=1, epsilon=epsilon), {"Clear": Clear()}).problem.study
    expected = load(10, np.random.default_rng([0, 0]), plausible=epsilon is not None)
    assert (study.test.features == expected.test.features).all()
    other = load(10, np.random.default_rng([0, 0]), plausible=epsilon is None)
    assert (study.test.features != other.test.features).any()


def test_scaled_by_constants_the_model_still_learns():
    study = load(10, np.random.default_rng([0, 0]), plausible=True)
    for hospital in study.hospitals:
        with_bias = np.column_stack([hospital.features, np.ones(hospital.patients)])
        largest = np.linalg.eigvalsh(with_bias.T @ with_bias / hospital.patients)[-1]
        assert model.RATE * largest / 8 <= 1
    reached = model.initial(FEATURES)
    for _ in range(20):
        changes = [model.update(reached, hospital) for hospital in study.hospitals]
        reached = model.add(reached, baseline.mean(changes, [hospital.patients for hospital in study.hospitals]))
    assert model.correct(reached, study.test) / study.test.patients > 0.9


@pytest.mark.parametrize("seed", range(5))
def test_shards_are_not_alike(seed):
    hospitals = load(10, np.random.default_rng(seed)).hospitals
    sizes = [hospital.patients for hospital in hospitals]
    sick = [hospital.malignant / hospital.patients for hospital in hospitals]
    assert max(sizes) > 4 * min(sizes)
    assert max(sick) - min(sick) > 0.3


def test_an_update_descends_the_loss():
    hospital = load(10, np.random.default_rng(0)).hospitals[2]

    def loss(current):
        chance = model.probabilities(current, hospital.features)
        return -np.mean(np.log(np.where(hospital.labels > 0.5, chance, 1 - chance)))

    start = model.initial(FEATURES)
    assert loss(start) == pytest.approx(math.log(2))
    assert loss(model.add(start, model.update(start, hospital))) < 0.5


def test_a_gradient_step_is_the_textbooks():
    hospital = Hospital("h", np.array([[1.0, -2.0], [0.5, 3.0], [0.0, 1.0]]), np.array([1.0, 0.0, 1.0]))
    before = {"bias": np.array([0.25]), "weights": np.array([-0.5, 0.75])}
    bias, weights = 0.0, [0.0, 0.0]
    for row, label in zip(hospital.features, hospital.labels, strict=True):
        error = 1 / (1 + math.exp(-(0.25 - 0.5 * row[0] + 0.75 * row[1]))) - label
        bias -= 0.1 * error / 3
        weights = [weight - 0.1 * error * x / 3 for weight, x in zip(weights, row, strict=True)]
    change = model.update(before, hospital, steps=1)
    np.testing.assert_allclose(change["bias"], [bias], rtol=1e-12)
    np.testing.assert_allclose(change["weights"], weights, rtol=1e-12)


def test_the_baseline_is_the_mean_weighted_by_patients():
    updates = [
        {"a": np.array([1.0, 2.0]), "b": np.array([[4.0]])},
        {"a": np.array([5.0, -2.0]), "b": np.zeros((1, 1))},
    ]
    average = baseline.mean(updates, [3, 1])
    assert (average["a"].tolist(), average["b"].tolist()) == ([2.0, 1.0], [[3.0]])
    assert baseline.mean([np.array([1.0]), np.array([2.0])], [1, 3]).tolist() == [1.75]


def test_the_baseline_loads_nothing_that_aggregates():
    code = "import sys, secagg.demo.baseline; print(*sorted(m for m in sys.modules if m.startswith('secagg')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    own = ["secagg.demo", "secagg.demo.baseline"]
    assert loaded == ["secagg", "secagg._cores", *own, "secagg.errors", "secagg.registry"]


# --- who falls silent


def test_a_plan_goes_through_the_rounds_of_any_protocol():
    silent = plan([f"h{number}" for number in range(10)], 20, 2, np.random.default_rng(0))
    assert [len(silences) for silences in silent] == [2] * 20
    assert all(len({silence.hospital for silence in silences}) == 2 for silences in silent)
    used = [name for silences in silent for name in silent_rounds(SecAgg(), silences).values()]
    assert used == [*rounds(SecAgg())] * 8


def test_a_protocol_without_a_later_round_has_nobody_silent_in_one():
    silences = (Silence("a", counted=False, turn=5), Silence("b", counted=True, turn=2))
    assert silent_rounds(Clear(), silences) == {"a": "Input"}
    assert silent_rounds(SecAgg(), silences) == {"a": "MaskedInput", "b": "ConsistencyCheck"}
    assert silent_rounds(SecAgg(threat_model="semi-honest"), silences)["b"] == "Unmasking"
    assert absentees(silences) == {"a"}


def test_without_dropouts_everyone_is_in_every_sum():
    clear = run(Settings(rounds=1, dropouts=0), {"Clear": Clear()}).runs[0]
    assert len(clear.aggregations[0].survivors) == 10
    assert clear.aggregations[0].dropped == {}


# --- what can't be run


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clients": 1}, "got --clients 1; expected 2 to 50"),
        ({"clients": 51}, "got --clients 51; expected 2 to 50"),
        ({"rounds": 0}, "got --rounds 0; expected 1 to 1000"),
        ({"dropouts": 10}, "got --dropouts 10; expected 0 to 9"),
        ({"dropouts": -1}, "got --dropouts -1; expected 0 to 9"),
        ({"seed": -1}, "got --seed -1; expected 0 or more"),
    ],
)
def test_a_number_out_of_range_is_told_with_its_range(wrong, message):
    with pytest.raises(ConfigError) as caught:
        Settings(**wrong)
    assert str(caught.value) == message


@pytest.mark.parametrize(("clients", "most"), [(3, 0), (4, 1), (6, 2), (10, 3), (12, 4)])
def test_the_most_dropouts_that_are_offered_work_and_one_more_does_not(clients, most):
    run(Settings(clients, 1, most), {"SecAgg": SecAgg()})
    with pytest.raises(ConfigError) as caught:
        run(Settings(clients, 1, most + 1), {"SecAgg": SecAgg()})
    span = "0" if most == 0 else f"0 to {most}"
    assert f"--dropouts {span}, or --clients " in str(caught.value)
    offered = int(str(caught.value).split("--clients ")[-1].split()[0])
    run(Settings(offered, 1, most + 1), {"SecAgg": SecAgg()})


def test_a_refusal_that_no_numbers_mend_is_told_as_it_is():
    with pytest.raises(ConfigError, match="lower corruption"):
        run(SETTINGS, {"SecAgg": SecAgg(corruption=0.99)})


@dataclass(frozen=True)
class Lacking(Clear):
    """A protocol whose package isn't installed, which it says by itself or in our words."""

    name = "Lacking"
    wrapped: bool = False

    def validate(self, task):
        missing = ModuleNotFoundError("got no tenseal: pip install 'secagg[he]'", name="tenseal")
        if self.wrapped:
            raise ConfigError(str(missing)) from missing
        raise missing


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_protocol_that_lacks_a_package_is_one_line(wrapped):
    demo = run(Settings(rounds=1), {"Lacking": Lacking(wrapped), "Clear": Clear()})
    assert [one.protocol for one in demo.runs] == ["Clear"]
    assert "Left out: Lacking, got no tenseal: pip install 'secagg[he]'" in print_table(demo)
    assert to_json(demo)["left_out"] == {"Lacking": "got no tenseal: pip install 'secagg[he]'"}
    with pytest.raises(ConfigError, match="no protocol that can run here; Lacking: got no tenseal"):
        run(Settings(rounds=1), {"Lacking": Lacking(wrapped)})


def test_any_other_error_of_a_protocol_is_not_swallowed():
    class Broken(Clear):
        def cost(self, task, cohort=None, *, signed=True):
            raise SecAggError("broken")

    with pytest.raises(SecAggError, match="broken"):
        run(Settings(rounds=1), {"Broken": Broken()})


# --- table, JSON, picture


def test_the_table_has_a_row_for_each_protocol_and_fits_a_terminal(demo):
    text = print_table(demo)
    assert max(map(len, text.splitlines())) <= 80
    for one in demo.runs:
        row = next(line for line in text.splitlines() if line.split()[:1] == [one.protocol])
        assert f"{100 * one.correct / 113:.1f} %" in row
        assert f"{one.difference:.1e}" in row
        assert f"{one.bytes_up:,.0f}" in row
        assert f"{one.bytes_down:,.0f}" in row
        assert " ".join(one.collusion.split()[:3]) in row
    assert f"without secagg: {100 * demo.float64_correct[-1] / 113:.1f} %" in " ".join(text.split())


def test_json_has_all_that_the_table_has_and_each_round(demo):
    document = json.loads(json.dumps(to_json(demo), allow_nan=False))
    assert [row["name"] for row in document["protocols"]] == [*named()]
    assert (document["seed"], document["clients"], document["rounds"], document["dropouts"]) == (0, 10, 6, 2)
    assert {"python", "secagg", "numpy", "numba", "cryptography"} <= set(document["versions"])
    assert sum(row["patients"] for row in document["shards"].values()) + document["tested"] == 569
    assert len(document["float64"]["accuracy_by_round"]) == 6
    for row, one in zip(document["protocols"], demo.runs, strict=True):
        assert row["accuracy"] == one.correct / 113 == row["rounds"][-1]["accuracy"]
        assert row["difference_from_float64"] == one.difference
        assert (row["bytes_up"], row["bytes_down"]) == (one.bytes_up, one.bytes_down)
        assert (row["collusion"], row["clipped"]) == (one.collusion, 0)
        assert np.array_equal(row["model"]["weights"], one.model["weights"])
        assert [entry["round"] for entry in row["rounds"]] == [1, 2, 3, 4, 5, 6]
        for entry, aggregation in zip(row["rounds"], one.aggregations, strict=True):
            assert entry["survivors"] == list(aggregation.survivors)
            assert entry["dropped"] == aggregation.dropped


def test_clipping_that_nobody_counts_is_none(demo):
    clear = by_name(demo, "Clear")
    uncounted = replace(clear, aggregations=tuple(replace(a, clipped=None) for a in clear.aggregations))
    assert to_json(replace(demo, runs=(uncounted,)))["protocols"][0]["clipped"] is None


@pytest.mark.parametrize("protocols", [1, 2, 7])
def test_the_picture_is_a_png_with_all_panels_drawn(demo, tmp_path, protocols):
    from matplotlib.image import imread

    runs = tuple(replace(demo.runs[at % 2], protocol=f"Protocol {at}") for at in range(protocols))
    path = tmp_path / "picture.png"
    draw(replace(demo, runs=runs), path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = imread(path)
    assert pixels.shape[:2] == (1260, 1950)
    panels = [(80, 500, 80 + 650 * at, 600 + 650 * at) for at in range(3)]
    for top, bottom, left, right in [*panels, (640, 1150, 100, 700), (640, 1150, 900, 1500)]:
        assert 0.003 < np.mean(pixels[top:bottom, left:right, :3].min(axis=2) < 0.9) < 0.6


def test_a_picture_of_one_round_of_training_can_be_drawn(tmp_path):
    draw(run(Settings(rounds=1), {"Clear": Clear()}), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000
