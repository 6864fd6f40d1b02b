"""``bench federated``: a small part of each figure, and the tables, picture and document of all."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import federated, learning
from bench.commands import app
from bench.federated import (
    ATTACKED,
    CALM,
    EXACT,
    FEDAVG,
    MASK,
    MEDIAN,
    TENTH,
    WHOLE,
    Bound,
    Figure,
    trainings,
    uploads,
)
from bench.learning import CLIENTS, GROUPS, Sums, Training, train
from docs import figures
from secagg import FixedPoint, Layout, SecAgg, Task
from secagg.demo import digits
from secagg.federated import RandomK, draw_groups, group_task, simulate_groups
from secagg.protocols import named

NEAREST = FixedPoint(clip=0.5, bits=16, rounding="nearest")
STEP = 0.5 / 32767


def accuracy(section, name, **changes):
    """In per cent, after 10 rounds of seed 0."""
    return 100 * train(replace(trainings()[section][name], rounds=10, **changes), 0).correct[-1] / 360


def sums(max_weight=None):
    return Sums(NEAREST, Layout.of(np.zeros(3)), max_weight, np.random.default_rng(0))


# --- the sums


def test_three_rounds_through_secagg_plus_give_the_model_of_the_integer_sums_to_the_last_bit():
    assert learning.differing(seed=0, rounds=3) == 0


def test_control_with_another_rounding_most_weights_differ():
    nearest, stochastic = (
        train(Training(rounding=rounding, rounds=3), 0).model for rounding in ("nearest", "stochastic")
    )
    assert np.mean(nearest["hidden"] != stochastic["hidden"]) > 0.5


def test_groups_through_secagg_open_the_means_that_the_workload_combines():
    data, start = digits.load(CLIENTS, 0), digits.initial(0)
    updates = {
        shard.id: digits.train(start, shard, np.random.default_rng(at), epochs=1)
        for at, shard in enumerate(data.clients)
    }
    layout = Layout.of(start)
    task = Task(SecAgg(corruption=0.1), layout, NEAREST, CLIENTS, CLIENTS, context=b"groups")
    groups = draw_groups(updates, GROUPS, bytes(32))
    opened = simulate_groups(group_task(task, GROUPS), updates, groups)
    here = Sums(NEAREST, layout, None, np.random.default_rng(0))
    for group, outcome in zip(groups, opened, strict=True):
        mean = here.mean({client: layout.flatten(updates[client]) for client in group}, {}, {})
        assert np.array_equal(layout.flatten(outcome.mean), mean)


@pytest.mark.parametrize("max_weight", [None, 8])
def test_the_mean_is_that_of_float64_within_half_a_step_a_client(max_weight):
    terms = {client: np.array([0.1, -0.2, 0.3]) * at / 4 for at, client in enumerate("abcd", 1)}
    weights = {"a": 8, "b": 1, "c": 3, "d": 5}
    exact = Sums(None, Layout.of(np.zeros(3)), max_weight, np.random.default_rng(0)).mean(terms, weights, {})
    shares = [weights[client] if max_weight else 1 for client in terms]
    assert np.allclose(exact, np.average(list(terms.values()), axis=0, weights=shares), atol=1e-15)
    mean = sums(max_weight=max_weight).mean(terms, weights, {})
    most = (max_weight or 1) * len(terms) * STEP / 2 / sum(shares)
    assert 0 < np.abs(mean - exact).max() <= most


# --- attackers


def test_a_liars_term_is_ten_times_its_update_though_the_clip_is_half():
    terms = {client: np.array([0.01, 0.1, 0.2]) for client in "abcd"}
    honest, poisoned = sums().mean(terms, {}, {}), sums().mean(terms, {}, {"d": -10.0})
    assert np.allclose(honest, terms["a"], atol=STEP)
    # The last coordinate would be 3 · 0.2 - 2.0, within the 4 · 0.5 that the sum of four holds.
    assert np.allclose(poisoned, terms["a"] * (3 - 10) / 4, atol=2 * STEP)


def test_a_liar_that_goes_too_far_wraps_in_a_group_and_is_refused_among_twenty():
    """A sum of four fills its 18 bits, so every value is possible; one of twenty leaves a third of 21 bits free."""
    four, twenty = sums(), sums()
    lie = np.array([0.0, 0.0, 0.3])
    wrapped = four.mean(dict.fromkeys("abcd", lie), {}, {"d": -10.0})
    assert four.refused == 0
    assert wrapped[2] > 0.3  # 3 · 0.3 - 3.0 lies below -2 and comes back from above
    cohort = {f"c{at}": lie for at in range(20)}
    assert twenty.mean(cohort, {}, {"c3": -60.0}) is None
    assert twenty.refused == 1


def test_two_attackers_break_the_mean_and_not_the_median_of_groups():
    assert accuracy(ATTACKED, FEDAVG) < 25
    assert accuracy(ATTACKED, "FedAvg, unweighted") < 25
    assert accuracy(ATTACKED, MEDIAN) > 45
    assert accuracy(ATTACKED, "5 groups, geometric median") > 45
    assert accuracy(CALM, MEDIAN) > 70


def test_an_attacked_run_without_attackers_is_the_run_without_attack():
    """At the factor 1, terms that bypass the encoding are those that the encoding makes."""
    plain = replace(trainings()[CALM][MEDIAN], rounding="nearest", rounds=3)
    assert train(plain, 0).correct == train(replace(plain, attack=1.0), 0).correct


# --- optimizers and compression


def test_fedprox_pulls_towards_the_model_of_the_round():
    """μ = 5 at the rate 0.1 halves the way from there in each step."""
    data, start = digits.load(CLIENTS, 0), digits.initial(0)
    free, held = (
        learning.local(start, data.clients[0], np.random.default_rng(1), proximal) for proximal in (0.0, 5.0)
    )
    assert 0 < np.linalg.norm(held["hidden"]) < 0.5 * np.linalg.norm(free["hidden"])


@pytest.mark.parametrize("name", [name for name in federated.HELD if name != "FedProx"])
def test_integer_sums_learn_what_float64_does(name):
    whole = accuracy(WHOLE, name)
    assert whole > 70
    assert abs(whole - accuracy(EXACT, name)) < 3


def test_equal_accuracies_are_not_of_equal_weights():
    """Integer sums are other sums than float64's: every grid step shows in the weights, hardly one in a class."""
    exact, whole, coarse = (train(Training(bits=bits, rounds=3), 0) for bits in (None, 16, 8))
    apart = Figure.of(WHOLE, FEDAVG, Training(), [whole], [exact]).apart
    assert 0 < apart < 1e-3
    assert Figure.of(WHOLE, FEDAVG, Training(), [coarse], [exact]).apart > 20 * apart


@pytest.mark.parametrize(("name", "least"), [("random-k", 60), ("CountSketch", 60), (MASK, 40)])
def test_a_tenth_of_the_coordinates_is_enough_to_learn(name, least):
    assert accuracy(TENTH, name) > least


def test_control_a_public_mask_without_residuals_loses_what_it_did_not_send():
    assert accuracy(TENTH, MASK) - accuracy(TENTH, MASK, residuals=False) > 5


def test_control_random_k_of_a_few_coordinates_learns_little():
    assert accuracy(TENTH, "random-k", make=lambda layout: RandomK(layout, 12)) < 60


def test_uploads_of_a_tenth_are_at_least_eight_and_a_half_times_smaller():
    sizes = uploads()
    assert set(sizes) == set(named())
    ratios = {name: whole / part for name, (whole, part) in sizes.items()}
    assert 4 < ratios.pop("OneShot") < 8.5  # its key shares hardly shrink with the vector
    assert min(ratios.values()) >= 8.5


def test_below_ten_thousand_coordinates_keys_outweigh_the_model():
    """What docs/federated.md says of compressing small models."""
    costs = []
    for coordinates in (10_000, 1_000):
        task = Task(SecAgg(), Layout.of(np.zeros(coordinates)), NEAREST, 20, 20)
        costs.append(sum(SecAgg().cost(task).up.values()))
    assert costs[0] / costs[1] < 5


# --- what the command prints and writes


@pytest.fixture
def short(monkeypatch):
    """All trainings, for one round each."""
    whole = trainings()
    cut = {
        section: {name: replace(training, rounds=1) for name, training in of.items()}
        for section, of in whole.items()
    }
    monkeypatch.setattr(federated, "trainings", lambda: cut)


def test_the_command_prints_every_figure_and_says_which_bounds_it_missed(short, tmp_path):
    target, picture = tmp_path / "f.json", tmp_path / "f.png"
    result = CliRunner().invoke(app, ["federated", "--seeds", "1", "--json", str(target), "--out", str(picture),
                                      "--html", str(tmp_path / "f.html")])  # fmt: skip
    assert result.exception is None, result.exception
    document = json.loads(target.read_text())
    assert document["finished"]
    assert [(one["section"], one["name"]) for one in document["figures"]] == [
        (section, name) for section, of in trainings().items() for name in of
    ]
    assert all(f"{one['mean']:.1f}" in result.output for one in document["figures"])
    missed = [one for one in document["bounds"] if not one["holds"]]
    assert missed  # one round reaches no 92 %
    assert "FedAvg on integer sums, %" in [one["what"] for one in missed]
    assert result.output.count("MISSED") == len(missed)
    assert f"{len(missed)} of {len(document['bounds'])} bounds are missed" in result.output
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "<svg" in (tmp_path / "f.html").read_text()
    worse = copy.deepcopy(document)
    worse["figures"][0]["mean"] *= 0.9
    (tmp_path / "worse.json").write_text(json.dumps(worse))
    for other, code in (("f.json", 0), ("worse.json", 1)):
        assert CliRunner().invoke(app, ["compare", str(target), str(tmp_path / other)]).exit_code == code


def test_an_interrupted_run_shows_what_it_has_and_no_bounds(short, monkeypatch, tmp_path):
    done = []

    def interrupted(training, seed):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(training)
        return train(training, seed)

    monkeypatch.setattr(federated, "train", interrupted)
    monkeypatch.setattr(federated, "differing", lambda seed, rounds: 0)
    target = tmp_path / "f.json"
    arguments = ["federated", "--seeds", "1", "--json", str(target), "--out", str(tmp_path / "f.png")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 130
    document = json.loads(target.read_text())
    assert (document["finished"], len(document["figures"]), document["bounds"]) == (False, 2, [])
    assert "float64: FedProx" in result.output
    assert not (tmp_path / "f.png").exists()


def test_a_bound_holds_on_its_own_side_alone():
    assert Bound("", 1.5, most=1.5).holds
    assert not Bound("", 1.51, most=1.5).holds
    assert Bound("", 92.0, least=92.0).holds
    assert not Bound("", 91.9, least=92.0).holds
    assert not Bound("", float("nan"), least=92.0).holds


# --- the document


@pytest.mark.parametrize(("section", "name"), [(WHOLE, "FedAdam"), (TENTH, "random-k"), (ATTACKED, MEDIAN)])
def test_the_kept_results_are_those_of_this_code(section, name):
    """Within ten images: processors round differently, and a training makes more of that in each round."""
    results = json.loads(figures.RESULTS.read_text(encoding="utf-8"))
    kept = next(one for one in results["figures"] if (one["section"], one["name"]) == (section, name))
    assert train(trainings()[section][name], 0).correct[-1] == pytest.approx(3.6 * kept["final"][0], abs=10)


def test_the_tables_of_the_document_are_those_of_the_kept_results():
    results = json.loads(figures.RESULTS.read_text(encoding="utf-8"))
    text = figures.DOCUMENT.read_text(encoding="utf-8")
    assert figures.redraw(text, results) == text, "run python -m docs.figures"
    assert results["seeds"] == 5
    assert results["finished"]
    results["figures"][0]["mean"] += 1
    assert figures.redraw(text, results) != text
