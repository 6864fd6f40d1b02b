"""The secret key that everyone who knows a seed computes."""

import numpy as np
import pytest

from he import bfv, ckks
from he.errors import HEError

SEED = bytes(range(32))


@pytest.mark.parametrize("scheme", [bfv.Scheme(254, 16, True), ckks.Scheme(254, 16, True)], ids=["bfv", "ckks"])
def test_a_seed_gives_one_key_and_another_seed_another(scheme: bfv.Scheme) -> None:
    key = scheme.secret_from_seed(SEED)
    assert key.to_bytes() == scheme.secret_from_seed(SEED).to_bytes()
    assert key.to_bytes() != scheme.secret_from_seed(bytes(32)).to_bytes()
    adder, values = scheme.adder(5), np.arange(5)
    adder.fold(key.encrypt(values))
    assert scheme.secret_from_seed(SEED).open(adder.total(), 5, 1).tolist() == values.tolist()


def test_another_scheme_has_another_key() -> None:
    one, other = bfv.Scheme(254, 16, True), bfv.Scheme(254, 17, True)
    assert (one.secret_from_seed(SEED)._secret != other.secret_from_seed(SEED)._secret).any()


def test_coefficients_are_uniform_in_three_values() -> None:
    """Chi-square with two degrees of freedom over 2^17 coefficients: 28 is passed once in a million."""
    scheme = bfv.Scheme(254, 16, True)
    counts = np.zeros(3)
    for number in range(64):
        secret = scheme.secret_from_seed(number.to_bytes(32, "big"))._secret
        assert secret.size == scheme.parameters.degree
        counts += np.bincount(secret + 1, minlength=3)
    expected = counts.sum() / 3
    assert ((counts - expected) ** 2 / expected).sum() < 28


def test_refusals() -> None:
    with pytest.raises(HEError, match="got a seed of 31 bytes"):
        bfv.Scheme(254, 16, True).secret_from_seed(bytes(31))
    with pytest.raises(HEError, match="seeded scheme"):
        bfv.Scheme(254, 16).secret_from_seed(SEED)
