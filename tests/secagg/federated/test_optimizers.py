"""Server optimizers: the papers' formulas to 1e-12, states that fit one rule and one model, and noise in v."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import dp
import secagg
from secagg.demo import digits
from secagg.encoding import PlainEncoding
from secagg.errors import ConfigError, EncodingError
from secagg.federated import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedSGD,
    FedYogi,
    ServerOptimizer,
    mean_noise_std,
)
from secagg.table import contribution_round
from tests.reference import optimizers as papers

RULES = [
    FedAvg(),
    FedSGD(0.2),
    FedAvgM(0.5, momentum=0.8),
    FedAdagrad(0.1, beta1=0.3, tau=1e-2),
    FedAdam(0.03, beta1=0.9, beta2=0.99, tau=1e-3),
    FedYogi(0.03, beta1=0.9, beta2=0.99, tau=1e-3),
]
ADAM = FedAdam(0.03)


def a_model(seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"b": scale * rng.standard_normal(3), "layers": [scale * rng.standard_normal((4, 2))]}


def flat(model: Any) -> list[float]:
    flat: list[float] = secagg.Layout.of(model).flatten(model).tolist()
    return flat


def run(optimizer: ServerOptimizer, means: list[Any], **keywords: float) -> list[list[float]]:
    """The flat model after each round."""
    model, state = a_model(), optimizer.start(a_model())
    models = []
    for mean in means:
        model, state = optimizer.step(model, mean, state, **keywords)
        models.append(flat(model))
    return models


def as_the_paper_says(optimizer: ServerOptimizer, means: list[list[float]]) -> list[list[float]]:
    start = flat(a_model())
    match optimizer:
        case FedAvgM():
            return papers.momentum(start, means, eta=optimizer.learning_rate, beta=optimizer.momentum)
        case FedAvg() | FedSGD():
            rate = optimizer.learning_rate * (-1 if isinstance(optimizer, FedSGD) else 1)
            return papers.momentum(start, means, eta=rate, beta=0.0)
        case FedAdagrad() | FedAdam() | FedYogi():
            parameters = {"eta": optimizer.learning_rate, "beta1": optimizer.beta1, "tau": optimizer.tau}
            beta2 = getattr(optimizer, "beta2", 0.0)
            return papers.adaptive(type(optimizer).__name__, start, means, **parameters, beta2=beta2)
    raise AssertionError(optimizer)


@pytest.mark.parametrize("optimizer", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("scale", [1e-4, 0.05, 3.0])
def test_each_rule_is_its_paper_to_the_twelfth_digit(optimizer: ServerOptimizer, scale: float) -> None:
    means = [a_model(seed, scale) for seed in range(1, 41)]
    expected = as_the_paper_says(optimizer, [flat(mean) for mean in means])
    np.testing.assert_allclose(run(optimizer, means), expected, rtol=1e-12, atol=1e-12)


def test_control_adam_is_not_yogi_and_v_does_not_start_at_zero() -> None:
    means = [a_model(seed, 0.05) for seed in range(1, 41)]
    adam = as_the_paper_says(RULES[4], [flat(mean) for mean in means])
    assert np.abs(np.array(adam) - run(RULES[5], means)).max() > 1e-3
    assert np.abs(np.array(adam) - run(FedAdam(0.03, tau=1e-50), means)).max() > 1e-3


def test_a_step_leaves_what_it_was_called_with_as_it_was() -> None:
    """So a session that is aborted is taken up again from the same model and state."""
    model, mean, state = a_model(), a_model(1), ADAM.start(a_model())
    saved = state.to_bytes()
    first = ADAM.step(model, mean, state)
    again = ADAM.step(model, mean, state)
    assert flat(first[0]) == flat(again[0]) != flat(model)
    assert first[1].to_bytes() == again[1].to_bytes() != saved == state.to_bytes()
    assert (flat(model), flat(mean)) == (flat(a_model()), flat(a_model(1)))
    assert state.moments.m is not None
    with pytest.raises(ValueError, match="read-only"):
        state.moments.m[0] = 1


def test_a_model_keeps_its_dtypes_and_containers() -> None:
    model = {"w": np.ones((2, 3), np.float32), "half": (np.ones(4, np.float16), None), "steps": np.array(7)}
    layout = secagg.Layout.of(model)
    stepped, _ = FedAvg(0.5).step(model, layout.restore(np.full(layout.size, 1.2)), FedAvg(0.5).start(model))
    assert stepped["w"].dtype == np.float32
    assert stepped["half"][0].dtype == np.float16
    assert stepped["steps"] == 8
    assert stepped["steps"].dtype == model["steps"].dtype
    np.testing.assert_allclose(stepped["w"], 1.6)


def test_rounds_of_real_sums_are_those_of_plain_ones_to_the_last_bit() -> None:
    """Three rounds: SecAgg+ and no protection give the same model and state under nearest rounding."""
    finals = []
    for protocol in (secagg.SecAggPlus(), secagg.Clear()):
        model, state = a_model(), ADAM.start(a_model())
        task = secagg.Task(
            protocol=protocol,
            layout=secagg.Layout.of(model),
            encoding=secagg.FixedPoint(clip=4.0, rounding="nearest"),
            max_clients=10,
            min_survivors=7,
            max_weight=9,
        )
        for number in range(3):
            updates = {f"c{i}": a_model(100 * number + i) for i in range(10)}
            weights = {client: 1 + i % 9 for i, client in enumerate(updates)}
            outcome = secagg.simulate(
                task, updates, weights=weights, dropouts={"c4": contribution_round(task.protocol)}
            )
            model, state = ADAM.step(model, outcome.mean, state)
        finals.append((flat(model), state.to_bytes()))
    assert finals[0] == finals[1]


def test_a_model_that_its_dtype_cannot_hold_is_refused() -> None:
    model = np.full(3, 6e4, np.float16)
    with pytest.raises(EncodingError, match="leads to a model with 3 coordinates that are not finite"):
        FedAvg().step(model, np.full(3, 1e4), FedAvg().start(model))


# States: saved, restored, and refused.


@pytest.mark.parametrize("optimizer", RULES, ids=lambda rule: type(rule).__name__)
def test_a_restored_run_goes_on_bit_for_bit(optimizer: ServerOptimizer) -> None:
    model, state = a_model(), optimizer.start(a_model())
    for seed in range(5):
        model, state = optimizer.step(model, a_model(seed), state)
    data = state.to_bytes()
    restored = optimizer.restore(data, model)
    assert restored.to_bytes() == data
    assert restored.rounds == 5
    one, other = (optimizer.step(model, a_model(9), held) for held in (state, restored))
    assert flat(one[0]) == flat(other[0])
    assert one[1].to_bytes() == other[1].to_bytes()


def test_the_noise_in_v_is_part_of_the_state() -> None:
    _, state = ADAM.step(a_model(), a_model(1), ADAM.start(a_model()), noise_std=0.5)
    assert ADAM.restore(state.to_bytes(), a_model()).moments.noise == state.moments.noise == pytest.approx(0.0025)


def test_a_state_of_another_rule_or_model_is_refused() -> None:
    state = ADAM.start(a_model())
    data = state.to_bytes()
    for other in (FedYogi(0.03), FedAdam(0.03, tau=1e-2), FedAdam(0.03, beta2=0.9), FedAvgM()):
        with pytest.raises(ConfigError, match=r"got the state of .*FedAdam\(beta1=0.9"):
            other.restore(data, {"b": np.zeros(30)})
        with pytest.raises(ConfigError, match="expected the same rule and hyperparameters"):
            other.step(a_model(), a_model(), state)
    renamed = {"c": a_model()["b"], "layers": a_model()["layers"]}
    narrower = {"b": a_model()["b"].astype(np.float32), "layers": a_model()["layers"]}
    for model in (renamed, narrower, {**a_model(), "b": np.zeros((3, 1))}):
        with pytest.raises(ConfigError, match="a model of another layout"):
            ADAM.restore(data, model)
        with pytest.raises(ConfigError, match="the state of a model of another layout"):
            ADAM.step(model, model, state)
    with pytest.raises(ConfigError, match=r"got a OptimizerState as state|expected what start\(model\)"):
        ADAM.step(a_model(), a_model(), data)  # type: ignore[arg-type]


def test_the_learning_rate_may_follow_a_schedule() -> None:
    _, state = ADAM.step(a_model(), a_model(1), ADAM.start(a_model()))
    slower = replace(ADAM, learning_rate=ADAM.learning_rate / 2)
    moves = [
        np.array(flat(rule.step(a_model(), a_model(2), rule.restore(state.to_bytes(), a_model()))[0]))
        - flat(a_model())
        for rule in (ADAM, slower)
    ]
    np.testing.assert_allclose(moves[0], 2 * moves[1], rtol=1e-9, atol=1e-15)


def damaged(data: bytes) -> Iterator[bytes]:
    """Every cut, and one bit of every byte."""
    for end in range(len(data)):
        yield data[:end]
        yield data[:end] + bytes([data[end] ^ 1 << end % 8]) + data[end + 1 :]


def test_damaged_cut_and_oversized_states_are_refused() -> None:
    _, state = ADAM.step(a_model(), a_model(1), ADAM.start(a_model()))
    data = state.to_bytes()
    for bad in damaged(data):
        with pytest.raises(ConfigError, match=r"SHA-256|doesn't begin with"):
            ADAM.restore(bad, a_model())
    with pytest.raises(ConfigError, match="SHA-256"):
        ADAM.restore(data + b"\0", a_model())
    with pytest.raises(ConfigError, match=r"got a state of 1048576 bytes; expected at most"):
        ADAM.restore(bytes(1 << 20), a_model())
    with pytest.raises(ConfigError, match="got 'text' as the state"):
        ADAM.restore("text", a_model())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="got a state whose bytes can't be read"):
        ADAM.restore(memoryview(data)[::2], a_model())  # type: ignore[arg-type]
    assert ADAM.restore(memoryview(data), a_model()).to_bytes() == data  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [b"\0", bytes(8), bytes(200)])
def test_bytes_left_over_under_a_checksum_that_holds_are_refused(change: bytes) -> None:
    data, label = ADAM.start(a_model()).to_bytes(), b"secagg/v1/optimizer"
    body = data[len(label) + 32 :]
    sealed = label + hashlib.sha256(body + change).digest() + body + change
    with pytest.raises(ConfigError, match="bytes of state; expected"):
        ADAM.restore(sealed, a_model())


def test_numbers_that_no_run_reaches_are_refused() -> None:
    state = ADAM.start(a_model())
    for place, value in (("m", math.nan), ("v", -1.0), ("v", math.inf), ("noise", -1.0), ("noise", math.inf)):
        vector: Any = value if place == "noise" else np.full(11, value)
        wrong = replace(state, moments=state.moments._replace(**{place: vector}))
        with pytest.raises(ConfigError, match="numbers no run reaches"):
            ADAM.restore(wrong.to_bytes(), a_model())
    with pytest.raises(ConfigError, match="more than 2\\^63 rounds"):
        ADAM.restore(replace(state, rounds=(1 << 64) - 1).to_bytes(), a_model())
    last = ADAM.restore(replace(state, rounds=1 << 63).to_bytes(), a_model())
    assert ADAM.step(a_model(), a_model(), last)[1].to_bytes()


def test_equal_rules_write_equal_states() -> None:
    negative, positive = FedAdam(0.1, beta1=-0.0), FedAdam(0.1, beta1=0.0)
    assert negative == positive
    assert negative.start(a_model()).to_bytes() == positive.start(a_model()).to_bytes()


# Bad input.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedAvg(0), "got learning_rate=0; expected a number above 0, at most 1e"),
        (lambda: FedAvg(math.nan), "got learning_rate=nan"),
        (lambda: FedAdam(0.1, beta1=1.0), "got beta1=1.0; expected a number from 0 to below 1"),
        (lambda: FedYogi(0.1, beta2=-0.1), "got beta2=-0.1"),
        (lambda: FedAvgM(momentum=1), "got momentum=1;"),
        (lambda: FedAdagrad(0.1, tau=0), "got tau=0; expected a number from 1e-50 to 1e50"),
        (lambda: FedAdam(0.1, noise_floor=0), "got noise_floor=0"),
        (lambda: FedAdam("0.1"), "got learning_rate='0.1'"),  # type: ignore[arg-type]
    ],
)
def test_hyperparameters_out_of_range_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("optimizer", RULES, ids=lambda rule: type(rule).__name__)
def test_means_that_do_not_fit_or_are_not_finite_are_refused(optimizer: ServerOptimizer) -> None:
    state = optimizer.start(a_model())
    with pytest.raises(EncodingError, match=r"\['b'\]: got an array of shape"):
        optimizer.step(a_model(), {**a_model(), "b": np.zeros(4)}, state)
    with pytest.raises(EncodingError, match="got a mean with 1 coordinates that are not finite"):
        optimizer.step(a_model(), {**a_model(), "b": np.array([0, np.inf, 0])}, state)
    huge = {"b": np.full(3, 1.7e308), "layers": [np.full((4, 2), 1.7e308)]}
    downhill = {"b": -huge["b"], "layers": [-huge["layers"][0]]}
    with pytest.raises(EncodingError, match="so large that"):
        optimizer.step(huge, downhill if isinstance(optimizer, FedSGD) else huge, state)


@pytest.mark.parametrize("optimizer", RULES, ids=lambda rule: type(rule).__name__)
def test_numbers_too_small_for_floats_are_zero_whatever_numpy_is_set_to(optimizer: ServerOptimizer) -> None:
    tiny = {"b": np.full(3, 1e-310), "layers": [np.full((4, 2), 1e-200)]}
    with np.errstate(all="raise"):
        optimizer.step(tiny, tiny, optimizer.start(tiny))


def test_noise_is_corrected_by_adam_alone_and_is_a_number() -> None:
    for optimizer in (rule for rule in RULES if not isinstance(rule, FedAdam)):
        with pytest.raises(ConfigError, match="can't correct for noise"):
            optimizer.step(a_model(), a_model(), optimizer.start(a_model()), noise_std=0.1)
    for bad in (-1.0, math.nan, math.inf, "1"):
        with pytest.raises(ConfigError, match="got noise_std="):
            ADAM.step(a_model(), a_model(), ADAM.start(a_model()), noise_std=bad)  # type: ignore[arg-type]


# Noise in v.


def test_the_correction_is_the_published_one_without_its_bias_corrections() -> None:
    """Theirs divides m by 1 - β₁^t and v by 1 - β₂^t; with those factors put back both steps are one.

    Their floor γ' is Φ here, the variance of the noise, which is what this one's default comes to.
    """
    beta1, beta2, noise = 0.9, 0.99, 0.3
    optimizer = FedAdam(0.03, beta1=beta1, beta2=beta2, tau=1e-50)
    gradients = np.random.default_rng(5).normal(0.1, 0.4, 60)
    x, state = np.zeros(1), optimizer.start(np.zeros(1))
    theirs = papers.corrected_adam(gradients.tolist(), beta1=beta1, beta2=beta2, noise=noise**2, floor=noise**2)
    for t, (gradient, (top, bottom)) in enumerate(zip(gradients, theirs, strict=True), 1):
        after, state = optimizer.step(x, np.array([gradient]), state, noise_std=noise)
        step = 0.03 * top * (1 - beta1**t) / (bottom * math.sqrt(1 - beta2**t))
        np.testing.assert_allclose(after - x, step, rtol=1e-10)
        x = after


def second_moment(optimizer: Any, signal: np.ndarray, noise: float, rounds: int = 2000) -> np.ndarray:
    """v after so many rounds of ``signal`` with Gaussian noise."""
    rng = np.random.default_rng(3)
    x, state = np.zeros(signal.size), optimizer.start(np.zeros(signal.size))
    for _ in range(rounds):
        known = {"noise_std": noise} if isinstance(optimizer, FedAdam) else {}
        x, state = optimizer.step(x, signal + rng.normal(0, noise, signal.size), state, **known)
    variance: np.ndarray = state.moments.v - state.moments.noise
    return variance


def test_what_noise_puts_into_v_is_taken_out_again() -> None:
    signal = np.repeat([0.0, 0.5, 1.0, 2.0], 500)
    left = second_moment(FedAdam(1e-6, beta2=0.99), signal, 1.0, 700).reshape(4, 500).mean(axis=1)
    np.testing.assert_allclose(left, [0.0, 0.25, 1.0, 4.0], atol=0.05)
    # Control: what stands in v without the correction is off by the whole variance.
    np.testing.assert_allclose(left + 1.0, [1.0, 1.25, 2.0, 5.0], atol=0.05)


def test_yogi_collects_another_number_than_the_variance_so_nothing_is_corrected() -> None:
    """Where E[Δ²·sign(v - Δ²)] = 0: at 2.37 variances, the median of a χ² law with three degrees of freedom."""
    left = second_moment(FedYogi(1e-6, beta2=0.99), np.zeros(500), 1.0)
    assert left.mean() == pytest.approx(2.366, abs=0.03)


def accuracy(optimizer: ServerOptimizer, seed: int, noise: float, corrected: float) -> float:
    """Points on the digits of docs/federated.md after 30 rounds with so much noise in the mean."""
    data, model = digits.load(20, seed), digits.initial(seed)
    state, rng = optimizer.start(model), np.random.default_rng([seed, 9])
    for number in range(30):
        changes = [
            digits.train(model, shard, np.random.default_rng([seed, 2, number, place]))
            for place, shard in enumerate(data.clients)
        ]
        mean = {
            name: np.mean([change[name] for change in changes], axis=0) + rng.normal(0, noise, array.shape)
            for name, array in model.items()
        }
        model, state = optimizer.step(model, mean, state, noise_std=corrected)
    return 100 * digits.correct(model, data.test) / data.test.images


def test_on_the_digits_the_correction_makes_no_difference_beyond_the_spread() -> None:
    """With noise of 0.01, five times a typical change; this is what docs/federated.md says."""
    plain, corrected = (
        np.mean([accuracy(FedAdam(0.03), seed, 0.01, corrected) for seed in (0, 1)]) for corrected in (0.0, 0.01)
    )
    assert min(plain, corrected) > 91
    assert abs(plain - corrected) < 2


ENCODINGS = [
    dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=0.8, bits=18),
    dp.DistributedSkellam(l2_clip=1.0, noise_multiplier=0.8, bits=18),
    dp.CentralGaussian(l2_clip=1.0, noise_multiplier=0.8),
    dp.CentralGaussian(l2_clip=1.0, noise_multiplier=1e-6, bits=4),  # the rounding alone
]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: type(encoding).__name__)
def test_the_noise_of_the_mean_is_as_wide_as_it_is_said_to_be(encoding: Any) -> None:
    size, clients = 4096, 6
    task = secagg.Task(
        protocol=secagg.Clear(),
        layout=secagg.Layout.of(np.zeros(size)),
        encoding=encoding,
        max_clients=clients,
        min_survivors=4,
    )
    updates = {f"c{i}": np.full(size, 0.5 / math.sqrt(size)) for i in range(clients)}
    mean = secagg.simulate(task, updates, dropouts={"c0": contribution_round(task.protocol)}).mean
    measured = float(np.std(mean - 0.5 / math.sqrt(size)))
    said = mean_noise_std(task, 5)
    if encoding.noise_multiplier < 0.1:  # a bound: how often a rounding goes up depends on the update
        assert 0.1 * said < measured < said
    else:
        assert measured == pytest.approx(said, rel=0.06)


def test_noise_that_is_not_known_and_survivors_that_cannot_be_are_refused() -> None:
    def task(encoding: Any) -> secagg.Task:
        layout = secagg.Layout.of(np.zeros(4))
        return secagg.Task(secagg.Clear(), layout, encoding, max_clients=5, min_survivors=3)

    assert mean_noise_std(task(secagg.FixedPoint(clip=1.0)), 5) == 0
    for survivors in (2, 6, 4.0, True):
        with pytest.raises(ConfigError, match="survivors; expected 3 to 5"):
            mean_noise_std(task(secagg.FixedPoint(clip=1.0)), survivors)  # type: ignore[arg-type]

    class Strange(PlainEncoding):
        def segments(self, *_: object) -> Any:
            return secagg.FixedPoint(clip=1.0).segments(secagg.Layout.of(np.zeros(4)), None)

        encode = decode = None  # type: ignore[assignment]

    with pytest.raises(ConfigError, match=r"got 'task' as task; expected a secagg\.Task"):
        mean_noise_std("task", 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="whose noise is not known here"):
        mean_noise_std(task(Strange()), 5)
