"""Shamir's secret sharing with Python's integers: the naive twin of ``mpc.shamir``."""

from collections.abc import Sequence

PRIME = 2**256 + 297


def from_limbs(limbs: Sequence[int]) -> int:
    """The number that 32-bit limbs, least significant first, stand for, whatever their sign."""
    return sum(int(limb) << (32 * place) for place, limb in enumerate(limbs))


def to_limbs(number: int) -> list[int]:
    """Eight limbs of 32 bits, the last with whatever lies above."""
    return [number >> (32 * place) & 0xFFFFFFFF for place in range(7)] + [number >> 224]


def evaluate(coefficients: Sequence[int], point: int) -> int:
    """The value at ``point`` of the polynomial with these coefficients, constant term first."""
    return sum(c * point**power for power, c in enumerate(coefficients)) % PRIME


def lagrange(points: Sequence[int], at: int) -> list[int]:
    """The weight of each point in the value at ``at``."""
    weights = []
    for i in points:
        numerator = denominator = 1
        for j in points:
            if j != i:
                numerator *= j - at
                denominator *= j - i
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return weights


def interpolate(points: Sequence[int], values: Sequence[int], at: int = 0) -> int:
    """The value at ``at`` of the polynomial through the given points."""
    return sum(w * v for w, v in zip(lagrange(points, at), values, strict=True)) % PRIME


def share_values(secret: bytes, threshold: int, points: Sequence[int], stream: bytes) -> list[bytes]:
    """What ``mpc.shamir.share_values`` gives when its rng gives ``stream``."""
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [int.from_bytes(stream[48 * i : 48 * i + 48], "big") % PRIME for i in range(threshold - 1)]
    return [evaluate(coefficients, point).to_bytes(33, "big") for point in points]


def reconstruct(points: Sequence[int], values: Sequence[bytes]) -> bytes:
    """What ``mpc.shamir.reconstruct`` gives."""
    return interpolate(points, [int.from_bytes(v, "big") for v in values]).to_bytes(32, "big")
