"""The primal attack's estimate of 2016 by its definition: a search over blocks and samples, one by one."""

import math


def root_hermite(block: int) -> float:
    """The factor by which a vector of a reduced basis is longer than the next, in blocks of that length."""
    return ((math.pi * block) ** (1 / block) * block / (2 * math.pi * math.e)) ** (1 / (2 * (block - 1)))


def succeeds(block: int, samples: int, degree: int, modulus_bits: float, secret: float, error: float) -> bool:
    """Whether the secret and the errors of so many samples, projected, are shorter than the basis says."""
    dimension = degree + samples + 1
    volume = samples * modulus_bits + degree * math.log2(error / secret)  # in bits: q^m, and the secret's scale
    projected = math.log2(error) + math.log2(block) / 2
    return projected <= (2 * block - dimension - 1) * math.log2(root_hermite(block)) + volume / dimension


def block(degree: int, modulus_bits: float, secret: float, error: float, start: int = 60) -> int:
    """The least block, from ``start`` on, that succeeds for some number of samples up to four times the degree."""
    length = start
    while not any(
        succeeds(length, samples, degree, modulus_bits, secret, error) for samples in range(1, 4 * degree, 2)
    ):
        length += 1
    return length
