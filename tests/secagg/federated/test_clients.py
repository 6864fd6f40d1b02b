"""Clients: FedProx, clipping by example, and DP-SGD, whose batches and ledger are what its account supposes."""

import copy
import json
import math
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st

import dp
import secagg
from dp.events import DiscreteGaussianEvent, PoissonSampled
from dp.ledger import BudgetExceeded
from secagg.errors import ConfigError, EncodingError, LocalProtocolError
from secagg.federated import DPSGD, PoissonBatch, PoissonBatches, clip_per_example, fedprox_gradient

DELTA = 1e-5
MODEL = {"w": np.zeros((3, 2)), "b": np.zeros(2, np.float32)}
MODEL_SHAPES = [("w", (3, 2)), ("b", (2,))]
RNG = np.random.default_rng(4)
DATA = {"w": RNG.normal(size=(40, 3, 2)), "b": RNG.normal(size=(40, 2))}  # the gradients of 40 records


ROUND: dict[str, Any] = {}
ROUND["itself"] = ROUND


def ledger(epsilon: float = 50.0, **changed: Any) -> dp.PrivacyLedger:
    return dp.PrivacyLedger(epsilon, DELTA, **{"unit": "record", "trust": "central", **changed})


def gradients(rows: Any) -> Any:
    return {name: part[rows] for name, part in DATA.items()}


def of(rows: list[int], rate: float = 0.25, records: int = 40) -> PoissonBatch:
    """A batch of these records, as if they had been drawn."""
    return PoissonBatch._drawn(np.array(rows, np.int64), rate, records)


def fixed(byte: int) -> Callable[[int], bytes]:
    return lambda size: bytes([byte]) * size


# FedProx and clipping.


def test_fedprox_pulls_towards_the_model_that_the_round_began_with() -> None:
    gradient = {"w": np.array([1.0, 2.0]), "b": [np.float32(0.5), np.ones(1, np.float32)]}
    weights = {"w": np.array([3.0, 3.0]), "b": [0.0, np.zeros(1)]}
    anchor = {"w": np.array([1.0, 4.0]), "b": [2.0, np.zeros(1)]}
    pulled = fedprox_gradient(gradient, weights, anchor, 0.5)
    np.testing.assert_array_equal(pulled["w"], [2.0, 1.5])
    assert pulled["b"][0] == -0.5
    assert pulled["b"][1].dtype == np.float32
    np.testing.assert_array_equal(fedprox_gradient(gradient, weights, anchor, 0)["w"], gradient["w"])
    far = np.array([np.inf])
    assert np.isnan(fedprox_gradient(np.zeros(1), far, far, 0.5)).all()
    assert np.isnan(fedprox_gradient([np.zeros(1)], [far], [far], 0.5)[0]).all()


def test_fedprox_is_the_gradient_of_the_loss_with_the_squared_distance() -> None:
    """By central differences; the control is the term without the square, whose gradient is another."""
    weights, anchor, mu = RNG.normal(size=5), RNG.normal(size=5), 0.7

    def loss(w: Any, power: int) -> float:
        return float(np.sin(w).sum() + mu / 2 * np.linalg.norm(w - anchor) ** power)

    def slope(power: int) -> Any:
        return [(loss(weights + step, power) - loss(weights - step, power)) / 2e-5 for step in 1e-5 * np.eye(5)]

    pulled = fedprox_gradient(np.cos(weights), weights, anchor, mu)
    np.testing.assert_allclose(pulled, slope(2), rtol=1e-6)
    assert np.abs(pulled - slope(1)).max() > 0.01


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ">f8"])
def test_fedprox_gives_usual_models_the_bits_that_it_gives_any_other(dtype: str) -> None:
    """Arrays and dicts of them take a short way, lists the general one."""
    parts = [{name: RNG.normal(size=shape).astype(dtype) for name, shape in MODEL_SHAPES} for _ in "gwa"]
    usual = fedprox_gradient(*parts, 0.3)
    general = fedprox_gradient(*([part] for part in parts), 0.3)[0]
    for name, _ in MODEL_SHAPES:
        assert usual[name].dtype == general[name].dtype
        np.testing.assert_array_equal(usual[name], general[name])
        alone = fedprox_gradient(*(part[name] for part in parts), 0.3)
        np.testing.assert_array_equal(alone, general[name])


@pytest.mark.parametrize(
    "other", [np.zeros((3, 1)), np.zeros(()), np.zeros((0, 2)), np.zeros((3, 2), complex), 0.0, None, {"w": 0}]
)
def test_fedprox_broadcasts_nothing(other: Any) -> None:
    like = np.zeros((3, 2))
    for gradient, weights, anchor in ((like, other, like), (like, like, other), (other, like, like)):
        with pytest.raises((ConfigError, EncodingError)):
            fedprox_gradient(gradient, weights, anchor, 0.1)
        with pytest.raises((ConfigError, EncodingError)):
            fedprox_gradient({"w": gradient}, {"w": weights}, {"w": anchor}, 0.1)
    with pytest.raises(EncodingError):
        fedprox_gradient({"w": like}, {"v": like}, {"w": like}, 0.1)


def test_clipping_is_by_example_and_over_all_leaves() -> None:
    clipped = clip_per_example(DATA, 1.5)
    for number in range(40):
        before = np.concatenate([DATA["w"][number].ravel(), DATA["b"][number]])
        after = np.concatenate([clipped["w"][number].ravel(), clipped["b"][number]])
        norm = np.linalg.norm(before)
        assert np.linalg.norm(after) <= 1.5
        np.testing.assert_allclose(after, before * min(1, 1.5 / norm), rtol=1e-9)
    apart = {name: clip_per_example(part, 1.5) for name, part in DATA.items()}
    longest = np.linalg.norm(np.concatenate([apart["w"].reshape(40, -1), apart["b"]], axis=1), axis=1).max()
    assert longest > 1.6, "the control: leaf by leaf, an example may be longer"


@given(st.integers(0, 2**32), st.sampled_from([1e-300, 1e-20, 1.0, 1e150, 1e300]), st.floats(1e-100, 1e100))
def test_clipping_bounds_the_norm_at_any_magnitude(seed: int, scale: float, bound: float) -> None:
    vectors = np.random.default_rng(seed).normal(size=(3, 7)) * scale
    clipped = clip_per_example(vectors, bound)
    for row in clipped:
        largest = np.abs(row).max()
        assert largest * math.sqrt(float(((row / (largest or 1)) ** 2).sum())) <= bound


# Batches.


def test_every_record_is_in_a_batch_with_the_same_chance_by_itself() -> None:
    draws, batches = 4000, PoissonBatches(50, 10, rng=iter_keys())
    seen = np.zeros((draws, 50))
    for number, batch in zip(range(draws), batches, strict=False):
        assert batch.rate == 0.2
        assert (np.diff(batch.indices) > 0).all()
        seen[number, batch.indices] = 1
    wide = 5 * math.sqrt(0.2 * 0.8 / draws)
    assert np.abs(seen.mean(axis=0) - 0.2).max() < wide
    covariance = np.cov(seen.T) - 0.16 * np.eye(50)
    assert np.abs(covariance).max() < 0.02, "independent of each other"
    assert seen.sum(axis=1).var() == pytest.approx(50 * 0.16, rel=0.1), "so the size varies"


def iter_keys() -> Callable[[int], bytes]:
    source = np.random.default_rng(8)
    return source.bytes


def test_draws_follow_the_key_and_everyone_is_drawn_at_rate_one() -> None:
    one, two = (PoissonBatches(10_000, 100, rng=fixed(b)).draw().indices for b in (1, 2))
    assert one.tolist() == PoissonBatches(10_000, 100, rng=fixed(1)).draw().indices.tolist() != two.tolist()
    assert PoissonBatches(7, 7).draw().indices.tolist() == list(range(7))
    assert (
        PoissonBatches(10_000, 100).draw().indices.tolist() != PoissonBatches(10_000, 100).draw().indices.tolist()
    )


def test_a_batch_is_drawn_and_shows_nothing_of_its_records() -> None:
    batch = PoissonBatches(1000, 10).draw()
    assert repr(batch) == "<PoissonBatch at rate 0.01 of 1000 records>"
    with pytest.raises(ValueError, match="read-only"):
        batch.indices[:] = 0
    with pytest.raises(ConfigError, match=r"expected PoissonBatches\(...\).draw\(\)"):
        PoissonBatch()
    for name, value in (("rate", 1e-9), ("indices", np.arange(10)), ("records", 10**9), ("_use", threading.Lock())):
        with pytest.raises(ConfigError, match="stays as it was drawn"):
            setattr(batch, name, value)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ConfigError, match="can't be copied"):
            copied(batch)


def test_of_several_threads_with_one_batch_one_gets_a_gradient() -> None:
    account, batch = ledger(), of([1, 2])
    ready = threading.Barrier(4)

    def attempt(_: int) -> bool:
        ready.wait()
        try:
            DPSGD(1.0, 1.0).gradient(MODEL, gradients, batch, account)
        except ConfigError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(4))) == [False, False, False, True]
    assert account.report().releases == 1


# The noised gradient.


def test_the_gradient_is_the_clipped_sum_over_the_expected_size() -> None:
    """With next to no noise; the size of the batch itself does not enter."""
    rows = [3, 4, 17, 39]
    mean = DPSGD(1.5, 1e-6).gradient(MODEL, gradients, of(rows), ledger(1e20), chunk=3)
    expected = {name: part.sum(axis=0) / 10 for name, part in clip_per_example(gradients(rows), 1.5).items()}
    for name in MODEL:
        np.testing.assert_allclose(mean[name], expected[name], atol=1.5e-3)
        assert mean[name].dtype == MODEL[name].dtype


@given(st.integers(0, 2**32), st.sampled_from(["normal", "halves", "huge", "spike"]), st.integers(1, 60))
def test_one_record_moves_the_integers_by_at_most_the_clip(seed: int, kind: str, size: int) -> None:
    """Whatever the record; the same key gives both runs the same noise, which so falls out of the difference."""
    rng, private = np.random.default_rng(seed), DPSGD(0.3, 1.0)
    steps = private._steps(size)
    row = {
        "normal": rng.normal(size=size),
        "halves": (rng.integers(-3, 4, size) + 0.5) * 0.3 / steps,  # each is rounded as far as it can be
        "huge": rng.choice([-1.7e308, 1.7e308], size),
        "spike": 0.3 * np.eye(size)[0],
    }[kind]
    data = np.vstack([rng.normal(size=(2, size)), row])
    sums = []
    for rows in ([0, 1], [0, 1, 2]):
        mean = private.gradient(np.zeros(size), lambda r: data[r], of(rows, 0.5, 3), ledger(1e6), rng=fixed(3))
        sums.append(mean * 1.5 / 0.3 * steps)
    moved = sums[1] - sums[0]
    np.testing.assert_allclose(moved, np.rint(moved), atol=1e-6)
    assert np.linalg.norm(np.rint(moved)) <= steps
    if kind in ("huge", "spike"):
        assert np.linalg.norm(moved) > 0.998 * steps, "and the clip is nearly reached"


def test_the_noise_is_as_wide_as_the_multiplier_says_and_on_the_grid() -> None:
    model, private = np.zeros(20_000), DPSGD(2.0, 0.7)
    noise = private.gradient(model, lambda _: pytest.fail("called for no records"), of([]), ledger())
    assert noise.std() == pytest.approx(0.7 * 2.0 / 10, rel=0.03)
    assert abs(noise.mean()) < 5 * 0.14 / math.sqrt(20_000)
    integers = noise * 10 / 2.0 * private._steps(20_000)
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-6)
    again = private.gradient(model, gradients, of([]), ledger())
    assert np.count_nonzero(noise == again) < 20, "and new each time"


def test_a_step_costs_what_the_accountant_says_of_a_sampled_gaussian() -> None:
    private, account, batches = DPSGD(1.0, 1.1), ledger(9.0), PoissonBatches(40, 10)
    for _ in range(5):
        private.gradient(MODEL, gradients, batches.draw(), account)
    expected = dp.RDPAccountant(DELTA).compose(PoissonSampled(0.25, DiscreteGaussianEvent(1.1, 1.0)), 5)
    assert account.spent == pytest.approx(expected.get_epsilon(), rel=1e-12)
    assert account.spent == pytest.approx(private.epsilon(DELTA, rate=0.25, steps=5), rel=1e-12)


def test_the_multiplier_for_a_budget_is_the_least() -> None:
    private = DPSGD(1.0, 1.0).with_epsilon(3.0, DELTA, rate=0.01, steps=500)
    assert private.epsilon(DELTA, rate=0.01, steps=500) <= 3.0
    less = DPSGD(1.0, private.noise_multiplier * (1 - 1e-6))
    assert less.epsilon(DELTA, rate=0.01, steps=500) > 3.0
    for epsilon in (0, math.nan, 1e-9):
        with pytest.raises(ConfigError, match="got epsilon="):
            private.with_epsilon(epsilon, DELTA, rate=0.01, steps=500)


def test_what_the_budget_has_no_room_for_is_not_released() -> None:
    account = ledger(0.5)
    with pytest.raises(BudgetExceeded):
        DPSGD(1.0, 0.3).gradient(MODEL, gradients, of([1]), account, rng=lambda _: pytest.fail("noise was drawn"))
    assert account.spent == 0
    account = ledger()
    with pytest.raises(ConfigError, match="rng did not return 32 bytes"):
        DPSGD(1.0, 1.0).gradient(MODEL, gradients, of([1]), account, rng=lambda size: bytes(size + 1))
    assert account.spent > 0  # the charge comes first


# Records and clients: two ledgers.


def noised_task() -> secagg.Task:
    encoding = dp.DistributedGaussian(l2_clip=1.0, noise_multiplier=2.0, bits=18)
    return secagg.Task(secagg.SecAgg(), secagg.Layout.of(MODEL), encoding, max_clients=6, min_survivors=5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"unit": "client"}, "got a ledger with unit='client' for records within a client"),
        ({"trust": "distributed"}, "expected trust='central'"),
        ({"trust": "local"}, "expected trust='central'"),
        ({"neighbours": "replace-one"}, "expected neighbours='zero-out'"),
    ],
)
def test_records_are_not_charged_to_another_ledger(changed: dict[str, Any], message: str) -> None:
    account = ledger(**changed)
    with pytest.raises(ConfigError, match=message):
        DPSGD(1.0, 1.0).gradient(MODEL, gradients, of([1]), account)
    with pytest.raises(ConfigError, match=r"expected a dp\.PrivacyLedger"):
        DPSGD(1.0, 1.0).gradient(MODEL, gradients, of([1]), dp.RDPAccountant(DELTA))  # type: ignore[arg-type]
    assert account.spent == 0


def test_each_ledger_refuses_the_other_ones_release() -> None:
    step, update = DPSGD(1.0, 1.0).release(8, 0.1), noised_task().encoder.release(8)
    assert (step.unit, update.unit) == ("record", "client")
    for account, release in ((ledger(unit="client"), step), (ledger(trust="distributed"), update)):
        with pytest.raises(dp.DPError, match=r"release with unit .* such figures don't add up"):
            account.charge(release)
        assert account.spent == 0


def test_a_client_does_not_pay_for_its_update_with_a_ledger_of_records() -> None:
    budgets = {f"c{i}": ledger(unit="client", trust="distributed") for i in range(6)}
    updates = dict.fromkeys(budgets, MODEL)
    secagg.simulate(noised_task(), updates, budgets=budgets)
    assert budgets["c1"].spent > 0
    budgets["c1"] = ledger(trust="distributed")
    with pytest.raises(LocalProtocolError, match="release with unit 'client' in a ledger with unit 'record'"):
        secagg.simulate(noised_task(), updates, budgets=budgets)


# A shuffled loader, and a batch that is used twice: tests/secagg/adversary/test_records.py has what either reveals.


@pytest.mark.parametrize(
    "batch", [np.arange(4), [1, 2], SimpleNamespace(indices=np.arange(4), rate=0.1, records=9)]
)
def test_a_batch_that_was_not_drawn_is_refused(batch: Any) -> None:
    account = ledger()
    with pytest.raises(ConfigError, match="which batches of a shuffled loader or of a fixed size are not"):
        DPSGD(1.0, 1.0).gradient(MODEL, gradients, batch, account)
    assert account.spent == 0


def test_a_batch_is_good_for_one_release() -> None:
    batch, account = of([1, 2]), ledger()
    DPSGD(1.0, 1.0).gradient(MODEL, gradients, batch, account)
    spent = account.spent
    with pytest.raises(ConfigError, match="got a batch whose gradient was released before"):
        DPSGD(1.0, 1.0).gradient(MODEL, gradients, batch, account)
    assert account.spent == spent


# The account beside TensorFlow Privacy's, which is dp-accounting.


@pytest.mark.stacks
def test_the_account_is_that_of_dp_accounting_on_the_same_steps() -> None:
    theirs = pytest.importorskip("dp_accounting", reason="needs pip install 'secagg[pld]'")
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    account, orders = ledger(8.0), dp.RDPAccountant().orders
    for multiplier, records, size, steps in ((1.0, 1000, 50, 30), (1.3, 400, 40, 20)):
        private, batches = DPSGD(1.0, multiplier), PoissonBatches(records, size)
        for _ in range(steps):
            private.gradient(np.zeros(3), lambda r: np.ones((r.size, 3)), batches.draw(), account)
    renyi, losses = RdpAccountant(orders), PLDAccountant()
    saved = json.loads(account.to_bytes().partition(b"\n")[2])["accountant"]
    for event, count in dp.RDPAccountant.from_state_dict(saved).events:
        assert isinstance(event, PoissonSampled)
        assert isinstance(event.event, DiscreteGaussianEvent)
        step = theirs.GaussianDpEvent(event.event.sigma / event.event.l2)
        for accountant in (renyi, losses):
            accountant.compose(theirs.PoissonSampledDpEvent(event.rate, step), count)
    assert account.spent == pytest.approx(renyi.get_epsilon(DELTA), rel=1e-9)
    # Theirs of the whole loss distribution is of continuous noise, and tighter.
    assert 0.75 * account.spent < losses.get_epsilon(DELTA) < account.spent


@pytest.mark.stacks
def test_gradients_of_examples_come_from_torch_and_go_back_to_it() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(2)
    model = torch.nn.Linear(4, 3)
    weights = {name: tensor.detach() for name, tensor in model.named_parameters()}
    x, y = torch.randn(30, 4), torch.randint(3, (30,))

    def loss(weights: Any, features: Any, label: Any) -> Any:
        scores = torch.func.functional_call(model, weights, (features,))
        return torch.nn.functional.cross_entropy(scores, label)

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    rows = [2, 3, 5, 7, 11]
    mean = DPSGD(1.0, 1e-6).gradient(
        weights, lambda r: each(weights, x[r], y[r]), of(rows, 0.5, 30), ledger(1e20), chunk=2
    )
    expected = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for row in rows:
        one = dict(
            zip(
                weights,
                torch.autograd.grad(
                    torch.nn.functional.cross_entropy(model(x[row]), y[row]), list(model.parameters())
                ),
                strict=True,
            )
        )
        norm = math.sqrt(sum(float((part**2).sum()) for part in one.values()))
        for name, part in one.items():
            expected[name] += part * min(1, 1 / norm) / 15
    for name, part in mean.items():
        assert part.dtype == torch.float32
        torch.testing.assert_close(part, expected[name], atol=1e-3, rtol=0)


# Bad input.


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: PoissonBatches(0, 1), ConfigError, "got records=0"),
        (lambda: PoissonBatches(10, 11), ConfigError, "got size=11; expected above 0 and at most the 10 records"),
        (lambda: PoissonBatches(10, 0), ConfigError, "got size=0"),
        (lambda: DPSGD(0, 1), ConfigError, "got l2_clip=0"),
        (lambda: DPSGD(1, math.nan), ConfigError, "got noise_multiplier=nan"),
        (lambda: clip_per_example(DATA, -1), ConfigError, "got l2_clip=-1"),
        (lambda: clip_per_example({"a": np.zeros((2, 3)), "b": np.zeros(3)}, 1), EncodingError, "first axes"),
        (lambda: clip_per_example({"a": 1.0}, 1), EncodingError, "first axes"),
        (lambda: clip_per_example(np.array([[0.0], [np.nan]]), 1), EncodingError, "example 1 that is not finite"),
        (lambda: fedprox_gradient(DATA, DATA, DATA, -1), ConfigError, "got mu=-1"),
        (lambda: fedprox_gradient(DATA, MODEL, DATA, 1), EncodingError, "got an array of shape"),
        (lambda: fedprox_gradient(ROUND, ROUND, ROUND, 1), ConfigError, "nested deeper"),
        (lambda: DPSGD(1, 1).event(0), ConfigError, "got a model of 0 coordinates"),
        (
            lambda: DPSGD(1, 1).with_epsilon(math.nan, 1e-5, rate="0.1", steps=None),  # type: ignore[arg-type]
            ConfigError,
            "got epsilon=nan for None steps at rate '0.1'",
        ),
        (lambda: PoissonBatches(9, 3, rng=lambda n: bytes(n - 16)).draw(), ConfigError, "return 32 bytes"),
        (lambda: PoissonBatches(9, 3, rng=None).draw(), ConfigError, "return 32 bytes"),  # type: ignore[arg-type]
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("per_example", "message"),
    [
        (
            lambda rows: {name: part[:1] for name, part in DATA.items()},
            r"got an array of shape \(1, 2\); expected an array of shape \(2, 2\)",
        ),
        (lambda rows: DATA["w"][rows], "got an array"),
        (
            lambda rows: {"w": np.full((rows.size, 3, 2), np.inf), "b": DATA["b"][rows]},
            "example 0 that is not finite",
        ),
    ],
)
def test_gradients_that_do_not_fit_are_refused_and_nothing_is_charged(per_example: Any, message: str) -> None:
    account, batch = ledger(), of([1, 2])
    with pytest.raises(EncodingError, match=message):
        DPSGD(1.0, 1.0).gradient(MODEL, per_example, batch, account)
    assert account.spent == 0
    DPSGD(1.0, 1.0).gradient(MODEL, gradients, batch, account)  # nothing was released, so it is still good
    with pytest.raises(ConfigError, match="got chunk=0"):
        DPSGD(1.0, 1.0).gradient(MODEL, gradients, of([1]), account, chunk=0)
