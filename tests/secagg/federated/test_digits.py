"""The digits, the network, and the noise of docs/frequency_plot.py."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from docs import frequency_plot
from secagg.demo import digits, hospitals, model


@pytest.fixture(scope="module")
def data():
    return digits.load(20, seed=0)


def test_every_image_is_with_one_client_or_in_the_test_set(data):
    shards = [*data.clients, data.test]
    assert data.test.images == 360
    assert sum(shard.images for shard in shards) == 1797
    assert min(shard.images for shard in data.clients) >= 5
    everything = np.concatenate([shard.features for shard in shards])
    assert np.array_equal(np.unique(everything, axis=0), np.unique(load_digits().data / 16, axis=0))


def test_clients_hold_few_of_the_ten_digits_each(data):
    shares = [np.bincount(shard.labels, minlength=10).max() / shard.images for shard in data.clients]
    assert np.mean(shares) > 0.3


def test_the_seed_decides_the_shards_and_the_first_model(data):
    again, other = digits.load(20, seed=0), digits.load(20, seed=1)
    assert all(np.array_equal(a.features, b.features) for a, b in zip(data.clients, again.clients, strict=True))
    assert [shard.images for shard in data.clients] != [shard.images for shard in other.clients]
    assert sum(array.size for array in digits.initial(0).values()) == 2410
    assert np.array_equal(digits.initial(3)["hidden"], digits.initial(3)["hidden"])
    assert not np.array_equal(digits.initial(3)["hidden"], digits.initial(4)["hidden"])


def cross_entropy(parameters, shard):
    hidden = np.maximum(shard.features @ parameters["hidden"] + parameters["hidden_bias"], 0)
    scores = hidden @ parameters["output"] + parameters["output_bias"]
    return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(shard.images), shard.labels]))


@pytest.mark.parametrize("name", ["hidden", "hidden_bias", "output", "output_bias"])
def test_the_gradient_is_that_of_finite_differences(data, name):
    parameters, shard, step = digits.initial(7), data.clients[0], 1e-6
    slope = digits.gradient(parameters, shard.features, shard.labels)[name]
    for at in np.ndindex(slope.shape):
        if sum(at) % 5:  # every fifth coordinate is enough
            continue
        moved = []
        for sign in (1, -1):
            there = {key: array.copy() for key, array in parameters.items()}
            there[name][at] += sign * step
            moved.append(cross_entropy(there, shard))
        assert slope[at] == pytest.approx((moved[0] - moved[1]) / (2 * step), rel=1e-4, abs=1e-7)


def test_an_update_is_the_change_of_the_weights_and_leaves_the_model_as_it_was(data):
    before = digits.initial(0)
    kept = {name: array.copy() for name, array in before.items()}
    update = digits.train(before, data.clients[3], np.random.default_rng(5), epochs=4)
    assert all(np.array_equal(before[name], kept[name]) for name in kept)
    after = {name: before[name] + update[name] for name in before}
    assert cross_entropy(after, data.clients[3]) < 0.7 * cross_entropy(before, data.clients[3])


def test_the_hospitals_take_as_many_steps_as_they_are_told():
    hospital, start = hospitals.load(10, np.random.default_rng(0)).hospitals[0], model.initial(30)
    one = model.update(start, hospital, 1)
    two = model.update(model.add(start, one), hospital, 1)
    both = model.update(start, hospital, 2)
    assert np.allclose(both["weights"], one["weights"] + two["weights"], rtol=0, atol=1e-15)


@pytest.mark.parametrize("plan", frequency_plot.PLANS, ids=lambda plan: plan.name)
def test_more_rounds_at_one_epsilon_mean_the_noise_of_their_square_root(plan):
    few, many = plan.noise(10), plan.noise(40)
    assert many.noise_multiplier == pytest.approx(2 * few.noise_multiplier, rel=0.01)


def test_the_mean_of_the_plot_has_the_noise_that_the_encoding_states():
    """Each of 20 clients adds its share of what 14 need: z·clip·√(20/14) in the sum."""
    plan = frequency_plot.PLANS[1]
    encoding, rng = plan.noise(5), np.random.default_rng(3)
    zeros = [np.zeros(plan.layout.size)] * plan.clients
    noised = frequency_plot.mean(zeros, plan.layout, plan.l2_clip, encoding, rng)
    expected = encoding.noise_multiplier * plan.l2_clip * (20 / 14) ** 0.5 / 20
    assert np.std(noised) == pytest.approx(expected, rel=0.06)
    assert not frequency_plot.mean(zeros, plan.layout, plan.l2_clip, None, rng).any()


def test_the_plot_trains_with_and_without_noise():
    plan = frequency_plot.PLANS[0]
    exact, noised = (plan.train(0, 5, 2, encoding) for encoding in (None, plan.noise(5)))
    assert exact > 75
    assert noised > 60
    assert noised == plan.train(0, 5, 2, plan.noise(5))  # seeded
