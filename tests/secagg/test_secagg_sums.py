"""SecAgg's sum equals the integer sum of the survivors' encodings, for every dropout pattern."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secagg
from secagg.table import input_round, rounds

CLIENTS = [f"c{i}" for i in range(6)]
MODELS = [secagg.SecAgg(), secagg.SecAgg(threat_model="semi-honest")]


def make_task(protocol: secagg.SecAgg, size: int, **changes: object) -> secagg.Task:
    fields = {"clip": 1.0, "bits": 16, "max_weight": 50, "min_survivors": 4} | changes
    return secagg.Task(
        protocol=protocol,
        layout=secagg.Layout.of(np.zeros(size)),
        encoding=secagg.FixedPoint(clip=fields["clip"], bits=fields["bits"], rounding="nearest"),
        max_clients=6,
        min_survivors=fields["min_survivors"],
        max_weight=fields["max_weight"],
    )


def grid_sum(
    task: secagg.Task, updates: dict[str, np.ndarray], weights: dict[str, int], who: tuple[str, ...]
) -> np.ndarray:
    """Sum over ``who`` in exact integers, from the encoding's own integers."""
    total = np.zeros(task.layout.size, dtype=object)
    for client in who:
        values = task.encoding.encode(
            task.layout.flatten(updates[client]), layout=task.layout, weight=weights[client],
            max_weight=task.max_weight, rng=lambda n: bytes(n),
        )[0]  # fmt: skip
        total += values.astype(object)
    top = 2 ** (task.encoding.bits - 1) - 1
    step = task.max_weight * (task.encoding.clip / top)
    return np.array([float(int(v) - len(who) * top) * step for v in total])


@pytest.mark.parametrize("protocol", MODELS, ids=lambda p: p.threat_model)
def test_every_pattern_of_two_dropouts(protocol: secagg.SecAgg) -> None:
    task = make_task(protocol, 3)
    rng = np.random.default_rng(5)
    updates = {c: rng.uniform(-1.2, 1.2, 3) for c in CLIENTS}
    weights = {c: int(rng.integers(1, 51)) for c in CLIENTS}
    names = rounds(protocol)
    before_or_at_input = names[: names.index(input_round(protocol)) + 1]
    for first, second in product([None, *names], repeat=2):
        dropouts = {c: r for c, r in (("c1", first), ("c4", second)) if r is not None}
        result = secagg.simulate(task, updates, weights=weights, dropouts=dropouts)
        left_out = {c for c, r in dropouts.items() if r in before_or_at_input}
        assert set(result.survivors) == set(CLIENTS) - left_out
        assert dict(result.dropped) == dropouts
        np.testing.assert_array_equal(result.sum, grid_sum(task, updates, weights, result.survivors))
        assert result.total_weight == sum(weights[c] for c in result.survivors)


@pytest.mark.parametrize("protocol", MODELS, ids=lambda p: p.threat_model)
@pytest.mark.parametrize("name", secagg.Round)
def test_three_dropouts_of_six_open_nothing(protocol: secagg.SecAgg, name: secagg.Round) -> None:
    if name not in rounds(protocol):
        with pytest.raises(secagg.ConfigError, match="has AdvertiseKeys"):
            secagg.simulate(make_task(protocol, 3), [np.zeros(3)] * 6, weights=[1] * 6, dropouts={"c1": name})
        return
    dropouts = dict.fromkeys(CLIENTS[:3] if protocol.threat_model == "malicious" else CLIENTS[:4], name)
    updates, weights = dict.fromkeys(CLIENTS, np.zeros(3)), dict.fromkeys(CLIENTS, 1)
    if protocol.threat_model == "semi-honest" and name is secagg.Round.UNMASKING:
        dropouts = dict.fromkeys(CLIENTS[:5], name)
    with pytest.raises(secagg.Aborted, match="nothing is opened"):
        secagg.simulate(make_task(protocol, 3), updates, weights=weights, dropouts=dropouts)


@settings(max_examples=25)
@given(data=st.data())
def test_sum_is_exact_and_close_to_the_floats(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40), label="size")
    bits = data.draw(st.integers(2, 32), label="bits")
    clip = data.draw(st.sampled_from([1e-6, 0.5, 1.0, 1e6]), label="clip")
    max_weight = data.draw(st.sampled_from([1, 7, 1000]), label="max_weight")
    protocol = data.draw(st.sampled_from(MODELS), label="protocol")
    names = st.sampled_from(rounds(protocol))
    dropouts = data.draw(st.dictionaries(st.sampled_from(CLIENTS), names, max_size=2), label="dropouts")
    values = st.floats(-2 * clip, 2 * clip, allow_subnormal=False)
    updates = {c: np.array(data.draw(st.lists(values, min_size=size, max_size=size))) for c in CLIENTS}
    weights = {c: data.draw(st.integers(1, max_weight)) for c in CLIENTS}
    task = make_task(protocol, size, bits=bits, clip=clip, max_weight=max_weight)
    result = secagg.simulate(task, updates, weights=weights, dropouts=dropouts)
    np.testing.assert_array_equal(result.sum, grid_sum(task, updates, weights, result.survivors))
    n, step = len(result.survivors), Fraction(clip) / (2 ** (bits - 1) - 1)
    for i in range(size):
        exact = sum(Fraction(min(max(updates[c][i], -clip), clip)) * weights[c] for c in result.survivors)
        # Half a step for each survivor, and the last bits of float64.
        slack = Fraction(1, 2**48) * max_weight * n * Fraction(clip)
        assert abs(Fraction(result.sum[i]) - exact) <= max_weight * n * step / 2 + slack
    assert result.clipped == sum(int((np.abs(updates[c]) > clip).sum()) for c in result.survivors)


def test_masked_inputs_look_uniform_and_differ_from_the_encoding() -> None:
    """The upload of an all-zero update has as many ones as zeros, within six standard deviations."""
    task = make_task(secagg.SecAgg(threat_model="semi-honest"), 4096)
    sent: list[bytes] = []
    from secagg.roles.server import Server

    original = Server.receive

    def record(self: Server, sender: str, data: bytes) -> dict[str, bytes]:
        if self.round == secagg.Round.MASKED_INPUT:
            sent.append(data)
        return original(self, sender, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "receive", record)
        secagg.simulate(task, dict.fromkeys(CLIENTS, np.zeros(4096)), weights=dict.fromkeys(CLIENTS, 1))
    assert len(sent) == len(CLIENTS)
    for data in sent:
        body = np.unpackbits(np.frombuffer(data[200:-200], np.uint8))
        assert abs(int(body.sum()) - body.size / 2) < 6 * np.sqrt(body.size) / 2


@pytest.mark.parametrize("protocol", MODELS, ids=lambda p: p.threat_model)
def test_upload_is_k_bits_a_coordinate_and_under_one_percent_more(protocol: secagg.SecAgg) -> None:
    size = 100_000
    task = make_task(protocol, size)
    result = secagg.simulate(task, dict.fromkeys(CLIENTS, np.zeros(size)), weights=dict.fromkeys(CLIENTS, 1))
    bits = (6 * task.segments[0].bound).bit_length()
    for client in CLIENTS:
        assert sum(result.bytes_up[client].values()) <= 1.01 * size * bits / 8
