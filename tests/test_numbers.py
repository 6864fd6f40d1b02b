"""NumPy's numbers are accepted wherever Python's are, and bools nowhere."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import dp
import he
import mpc
import secagg
from dp.events import GaussianEvent, PoissonSampled, SelfComposed
from he import bfv, ckks, paillier
from he.packing import Slots
from mpc import graph, masks, shamir
from mpc.keys import encode_parts, seeded_rng
from secagg._numbers import is_a, real, whole
from secagg.beacon import SignedBeacon


def test_every_package_reads_numbers_alike() -> None:
    texts = {Path(package.__path__[0], "_numbers.py").read_text() for package in (dp, he, mpc, secagg)}
    assert len(texts) == 1


@pytest.mark.parametrize("number", [7, np.int64(7), np.uint8(7), np.array(7)])
def test_integers(number: Any) -> None:
    assert whole(number) == 7
    assert type(whole(number)) is int


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2), np.float64(2), np.int8(2)])
def test_reals(number: Any) -> None:
    assert real(number) == 2.0
    assert type(real(number)) is float


@pytest.mark.parametrize("odd", [True, np.bool_(True), "7", None, 1j, np.array([7]), np.array([7, 8]), 10**400])
def test_what_is_no_number(odd: Any) -> None:
    assert math.isnan(real(odd))
    assert type(odd) is int or whole(odd) is None


def test_a_class_is_what_it_is_and_not_what_it_says() -> None:
    class Says:
        __class__ = str  # type: ignore[assignment]

    assert isinstance(Says(), str), "the control"
    assert not is_a(Says(), str)
    assert not is_a(mock.MagicMock(spec=int), int | str)
    assert is_a(np.str_("a"), str)
    assert is_a({}, (Mapping,))
    assert is_a(True, int)


N, F = np.int64, np.float32
UPDATE = {"w": np.zeros(3)}
LAYOUT = secagg.Layout.of(UPDATE)


def task(**changed: Any) -> secagg.Task:
    fields: dict[str, Any] = {"max_clients": 10, "min_survivors": 8, "encoding": secagg.FixedPoint(1.0)} | changed
    return secagg.Task(protocol=secagg.Clear(), layout=LAYOUT, **fields)


SAME: dict[str, tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]] = {
    "Task": (
        lambda a, b, c: task(max_clients=a, min_survivors=b, max_weight=c).digest, (10, 8, 5), (N(10), N(8), N(5)),
    ),
    "FixedPoint": (secagg.FixedPoint, (0.5, 12), (F(0.5), N(12))),
    "clips": (lambda clip: secagg.FixedPoint({"w": clip}), (2,), (np.uint8(2),)),
    "corruption": (secagg.SecAgg, (0.25,), (F(0.25),)),
    "AdditiveShares": (secagg.AdditiveShares, (3,), (N(3),)),
    "OneShot": (secagg.OneShot, (10, 2), (N(10), np.int8(2))),
    "Paillier": (secagg.Paillier, (0.25,), (F(0.25),)),
    "SignedBeacon": (lambda g, p: SignedBeacon(bytes(range(32)), g, p), (5, 30), (N(5), np.int8(30))),
    "DistributedGaussian": (dp.DistributedGaussian, (1.0, 1.5, 18), (F(1), F(1.5), N(18))),
    "DistributedSkellam": (dp.DistributedSkellam, (1, 1.5, 18), (N(1), F(1.5), N(18))),
    "CentralGaussian": (dp.CentralGaussian, (1, 1.5, 18), (N(1), F(1.5), N(18))),
    "with_epsilon": (
        lambda e, d, r: dp.DistributedGaussian(1.0, 1.0, 18, clients=9, honest=5).with_epsilon(e, d, rounds=r),
        (4.0, 100, 2), (F(4), N(100), N(2)),
    ),
    "epsilon": (
        lambda c, h, d: dp.DistributedGaussian(1.0, 1.0, 18, clients=c, honest=h).epsilon(d), (9, 5, 100),
        (N(9), N(5), N(100)),
    ),
    "accountant": (
        lambda delta, order, count, noise: dp.RDPAccountant(delta, orders=[order])
        .compose(GaussianEvent(noise), count).get_epsilon(delta),
        (0.125, 8, 3, 1.5), (F(0.125), N(8), N(3), F(1.5)),
    ),
    "sampled": (
        lambda q, count, noise: PoissonSampled(q, SelfComposed(GaussianEvent(noise), count)),
        (0.25, 3, 1.5), (F(0.25), N(3), F(1.5)),
    ),
    "clip_l2": (lambda bound: dp.clip_l2(np.ones(4), bound).tolist(), (1,), (N(1),)),
    "Laplace": (lambda e, s: dp.LaplaceMechanism(e, s), (0.5, 2), (F(0.5), N(2))),
    "bfv": (lambda b, n: bfv.Scheme(b, n).parameters, (2**31, 200), (N(2**31), np.int16(200))),
    "ckks": (lambda b, n: ckks.Scheme(b, n).parameters, (2**16, 200), (N(2**16), np.int16(200))),
    "paillier": (lambda b, n, k: paillier.Scheme(b, n, k).width, (2**16, 200, 2048), (N(2**16), N(200), N(2048))),
    "slots": (lambda w, c: Slots(w, c).integers(100), (20, 7), (np.int8(20), np.int8(7))),
    "shamir": (
        lambda t, n: shamir.split(bytes(32), t, n, seeded_rng(bytes(32), salt=b"", info=b"")), (2, 3), (N(2), N(3))
    ),
    "points": (
        lambda t, p: shamir.share_values(bytes(32), t, [p, 7], seeded_rng(bytes(32), salt=b"", info=b"")), (2, 3),
        (N(2), np.uint16(3)),
    ),
    "graph": (
        lambda n, c, s: graph.harary_parameters(n, corruption=c, dropout=0.1, security=s), (1000, 0.05, 40),
        (np.int16(1000), F(0.05), np.int8(40)),
    ),
    "mask": (
        lambda lane: keystream(lane), (5,), (np.int8(5),),
    ),
    "encode_parts": (encode_parts, (5,), (N(5),)),
}  # fmt: skip


def keystream(offset: Any) -> list[int]:
    lanes = np.zeros(4, np.uint32)
    masks.keystream(bytes(32), lanes, offset=offset)
    return lanes.tolist()


@pytest.mark.parametrize("name", sorted(SAME))
def test_numbers_of_numpy_mean_the_same(name: str) -> None:
    call, plain, of_numpy = SAME[name]
    expected = call(*plain)
    got = call(*of_numpy)
    assert got == expected
    assert repr(got) == repr(expected)  # not only equal: no NumPy type is kept


@pytest.mark.parametrize("name", sorted(set(SAME) - {"clip_l2", "mask", "sampled"}))
@pytest.mark.parametrize("odd", [True, "7", None])
def test_what_is_no_number_is_refused(name: str, odd: Any) -> None:
    call, plain, _ = SAME[name]
    for at in range(len(plain)):
        optional = odd is None and (name, at) == ("Task", 2)
        text = (name, at, odd) == ("encode_parts", 0, "7")
        if not optional and not text:
            with pytest.raises((secagg.ConfigError, dp.DPError, he.HEError, mpc.MPCError)):
                call(*plain[:at], odd, *plain[at + 1 :])
