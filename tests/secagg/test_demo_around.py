"""What stands around the sum in the demo: tasks, optimizers, compression, rules over groups, attacks; the claim."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from secagg import BFV, AdditiveShares, Clear, ConfigError, SecAgg, SecAggPlus
from secagg.demo import training
from secagg.demo.claim import watch
from secagg.demo.learner import ENCODING, Learner, attackers
from secagg.demo.plot import _draw_bytes, draw
from secagg.demo.problems import load
from secagg.demo.settings import ALGORITHMS, Settings
from secagg.demo.table import to_json, to_table
from secagg.demo.training import make_task, run

CLEAR = {"Clear": Clear()}


def print_table(demo):
    text = io.StringIO()
    Console(width=80, file=text).print(to_table(demo))
    return " ".join(text.getvalue().split())


def percent(demo):
    return 100 * demo.runs[0].correct / demo.problem.tested


# --- every option trains as it does without a protocol


@pytest.mark.parametrize("optimizer", ALGORITHMS)
def test_every_algorithm_trains_under_a_protocol_as_in_float64(optimizer):
    demo = run(Settings(rounds=3, optimizer=optimizer), CLEAR)
    # Adaptive rules divide by a root that begins at τ, so they move by more than FedAvg for the same rounding.
    assert 0 < demo.runs[0].difference < 5e-3
    assert abs(demo.runs[0].correct - demo.float64_correct[-1]) <= 2
    assert demo.float64_correct[-1] / demo.problem.tested > 0.6
    assert ALGORITHMS[optimizer].title in print_table(demo)


@pytest.mark.parametrize(
    ("task", "compression"),
    [("hospitals", "random-k"), ("hospitals", "count-sketch"), ("digits", "random-k"), ("digits", "pruned")],
)
def test_every_compression_trains_under_a_protocol_as_in_float64(task, compression):
    demo = run(Settings(rounds=3, task=task, compression=compression), CLEAR)
    assert 0 < demo.runs[0].difference < 2e-2
    assert abs(percent(demo) - 100 * demo.float64_correct[-1] / demo.problem.tested) < 3
    size = sum(array.size for array in demo.float64_model.values())
    assert demo.claim.update.size == -(-size // 10)
    assert "a tenth of the coordinates" in print_table(demo)


def test_a_public_mask_trains_and_a_client_that_falls_silent_keeps_its_residual():
    demo = run(Settings(rounds=5, task="digits", compression="public-mask"), CLEAR)
    assert percent(demo) > 15
    settings = Settings(task="digits", compression="public-mask", clients=3)
    learner = Learner(load("digits", 3, 0, private=False), settings)
    terms = learner.offer(1)
    kept = {client: residual.vector for client, residual in learner._residuals.items()}
    learner.learn(1, [np.mean(list(terms.values()), axis=0)], ["client-01", "client-03"])
    assert np.array_equal(learner._residuals["client-02"].vector, kept["client-02"])
    assert not np.array_equal(learner._residuals["client-01"].vector, kept["client-01"])


def test_more_local_epochs_learn_more_in_a_round():
    one, many = (run(Settings(rounds=2, task="digits", local_epochs=epochs), CLEAR) for epochs in (1, 8))
    assert one.float64_correct[-1] < many.float64_correct[-1]


def test_without_options_the_demo_trains_fedavg_over_hospitals():
    document = to_json(run(Settings(rounds=1), CLEAR))
    assert (document["task"], document["optimizer"], document["local_epochs"]) == ("hospitals", "fedavg", 5)
    assert (document["compression"], document["robust"], document["attack"]) == (None, None, None)
    assert (document["groups"], document["unattacked"]) == (1, None)


# --- attacks, and rules over groups


def test_an_attack_breaks_the_mean_and_not_the_median_of_groups():
    plain = Settings(clients=20, rounds=10, dropouts=0, seed=1, task="digits", attack="scale")
    broken, held = run(plain, CLEAR), run(replace(plain, robust="median"), CLEAR)
    assert percent(broken) < 35
    assert percent(held) > percent(broken) + 20
    assert broken.unattacked_correct[-1] / 360 > 0.6
    assert "2 of 20 clients send -10 times their update" in print_table(broken)
    assert "each of 5 groups" in print_table(held)


def test_under_attack_the_table_names_no_price_of_noise():
    plain = Settings(rounds=2, epsilon=8.0)
    assert "the noise costs" in print_table(run(plain, CLEAR))
    attacked = print_table(run(replace(plain, attack="scale"), CLEAR))
    assert "the noise costs" not in attacked
    assert "The length binds attackers too" in attacked


def test_attackers_are_a_tenth_and_the_same_in_every_training():
    problem = load("digits", 20, 0, private=False)
    liars = attackers(problem, Settings(clients=20, task="digits", attack="sign-flip"))
    assert len(liars) == 2
    assert liars == attackers(
        problem, Settings(clients=20, task="digits", attack="scale", robust="median", dropouts=0)
    )
    assert not attackers(problem, Settings(clients=20, task="digits"))


def test_a_flipped_sign_is_what_the_honest_client_would_send_with_a_minus():
    settings = Settings(clients=3, task="digits")
    problem = load("digits", 3, 0, private=False)
    honest, attacked = Learner(problem, settings), Learner(problem, replace(settings, attack="sign-flip"))
    (liar,) = attacked.lying
    before, after = honest.offer(1), attacked.offer(1)
    for client in before:
        sign = -1 if client == liar else 1
        assert all(np.array_equal(sign * before[client][name], after[client][name]) for name in before[client])


@pytest.mark.parametrize("robust", ["median", "trimmed-mean", "geometric-median", "norm-clipped-mean"])
@pytest.mark.parametrize("protocol", [SecAgg(), SecAggPlus(), AdditiveShares()], ids=lambda one: one.name)
def test_every_rule_runs_over_groups_of_every_kind_of_protocol(robust, protocol):
    demo = run(Settings(rounds=2, dropouts=0, robust=robust), {protocol.name: protocol})
    assert demo.runs[0].difference < 1e-3
    assert all(len(aggregation.survivors) == 10 for aggregation in demo.runs[0].aggregations)
    assert demo.claim.clients in (3, 4)


# --- what has no meaning is refused


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"task": "faces"}, "got --task faces; expected any of hospitals, digits"),
        ({"optimizer": "sgd"}, "got --optimizer sgd; expected any of fedavg, fedprox"),
        ({"attack": "dos"}, "got --attack dos; expected any of sign-flip, scale"),
        ({"local_epochs": 0}, "got --local-epochs 0; expected 1 to 100"),
        ({"robust": "median"}, "a group of three or four opens no sum without one of its clients"),
        ({"robust": "median", "dropouts": 0, "epsilon": 8.0}, "groups of three or four drown in it"),
        ({"compression": "pruned"}, "whose first model is all zeros: no weight is larger than another"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_the_reason(settings, reason):
    with pytest.raises(ConfigError) as caught:
        Settings(**settings)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"compression": "top-k"}, "A client's own choice of coordinates is refused"),
        ({"compression": "gzip"}, "got compression 'gzip'; expected one of random-k"),
        ({"robust": "krum", "dropouts": 0}, "needs single updates"),
        (
            {"robust": "median", "dropouts": 0, "clients": 8},
            "opens no sums of 3 groups of them; expected --clients 9",
        ),
    ],
)
def test_what_single_updates_would_need_is_refused_before_any_training(settings, reason):
    began = []
    with pytest.raises(ConfigError) as caught:
        run(Settings(**settings), {"SecAgg": SecAgg()}, began.append)
    assert reason in str(caught.value)
    assert not began


# --- the claim


def claim_of(protocol, task="digits"):
    settings = Settings(task=task)
    return training._watch(protocol, settings, load(task, 10, 0, private=False))


def test_the_server_gets_numbers_that_do_not_depend_on_the_update():
    claim = claim_of(SecAgg())
    assert (claim.protocol, claim.client, claim.clients) == ("SecAgg", "client-01", 10)
    assert claim.by_coordinate
    assert claim.hides
    assert abs(claim.correlation) < 0.1  # five standard deviations of 1/√2410
    # Uniform below the modulus, which is what masks make of any update: mean and spread of sixteen cells.
    cells = np.bincount(claim.received.astype(np.int64) * 16 // claim.modulus, minlength=16)
    assert np.all(np.abs(cells - 2410 / 16) < 75)
    assert claim.error < ENCODING.clip / 32767 * 2


def test_control_without_masks_the_same_picture_shows_the_update():
    claim = claim_of(Clear())
    assert not claim.hides
    assert claim.correlation > 0.999


def test_ciphertexts_are_shown_as_the_bytes_that_they_are():
    claim = claim_of(BFV(), "hospitals")
    assert not claim.by_coordinate
    assert claim.correlation is None
    assert claim.received.size > 1000
    assert claim.error < ENCODING.clip / 32767 * 2


def test_the_message_that_is_kept_is_that_of_the_victim():
    problem = load("hospitals", 4, 0, private=False)
    settings = Settings(clients=4, dropouts=0)
    learner = Learner(problem, settings)
    task = make_task(Clear(), learner.layout, settings, max(problem.weights.values()))
    terms = learner.offer(1)
    for victim in ("hospital-01", "hospital-04"):
        claim = watch(task, terms, problem.weights, b"round", victim)
        step = ENCODING.clip / 32767
        share = problem.weights[victim] / max(problem.weights.values())
        flat = learner.layout.flatten(terms[victim])
        assert np.array_equal(claim.received, np.rint(flat * share / step) + 32767)


@pytest.mark.parametrize("settings", [
    Settings(rounds=2, task="digits"), Settings(rounds=2, clients=9, dropouts=0, robust="median", attack="scale")
])  # fmt: skip
@pytest.mark.parametrize("protocol", [SecAgg(), BFV(), AdditiveShares(), Clear()], ids=lambda one: one.name)
def test_the_picture_can_be_drawn_for_every_kind_of_message(settings, protocol, tmp_path):
    demo = run(settings, {protocol.name: protocol})
    draw(demo, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 40_000
    document = json.loads(json.dumps(to_json(demo), allow_nan=False))
    assert document["claim"]["protocol"] == protocol.name


@pytest.mark.parametrize(("rounds", "factor", "scale"), [(1, 1, "linear"), (2, 1, "linear"), (2, 40, "log")])
def test_an_axis_of_bytes_has_numbers_however_few_bytes_there_are(rounds, factor, scale):
    """An axis of powers of ten would have one number, or none, over less than a power."""
    demo = run(Settings(rounds=rounds), CLEAR)
    more = replace(demo.runs[0], protocol="More", bytes_up=factor * demo.runs[0].bytes_up)
    axes = Figure().subplots()
    _draw_bytes(axes, replace(demo, runs=(*demo.runs, more)))
    low, high = axes.get_xlim()
    assert axes.get_xscale() == scale
    assert sum(low <= at <= high for at in axes.get_xticks()) >= 2


def test_the_command_takes_every_option(tmp_path):
    options = ["--task", "digits", "--clients", "9", "--rounds", "2", "--local-epochs", "1",
               "--optimizer", "fedyogi", "--compression", "random-k", "--robust", "trimmed-mean",
               "--attack", "sign-flip"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "secagg", "demo", "--json", "--no-plot", "--protocol", "Clear", *options],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert (document["task"], document["clients"], document["local_epochs"], document["optimizer"]) == (
        "digits",
        9,
        1,
        "fedyogi",
    )
    assert (document["compression"], document["robust"], document["attack"]) == (
        "random-k",
        "trimmed-mean",
        "sign-flip",
    )
    assert (document["groups"], document["dropouts"], len(document["shards"])) == (3, 0, 9)
