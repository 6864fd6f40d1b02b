"""Numbers of NumPy are taken wherever Python's are, and bools nowhere."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dp
import he
import mpc
import secagg
from secagg._numbers import real, whole


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
