"""The distributed mechanisms' ε, written down once more, number by number."""

import math

import numpy as np

ORDERS = [*range(2, 129), 256]


def gaussian(alpha: int, n: int, s: float, l2: float, l1: float, d: int) -> float:
    """The Rényi divergence of a sum of ``n`` discrete Gaussians of parameter ``s``."""
    tau = 10 * math.fsum(math.exp(-2 * math.pi**2 * s * s * k / (k + 1)) for k in range(1, n))
    first = alpha * l2**2 / (2 * n * s**2) + tau * d
    second = alpha / 2 * (l2**2 / (n * s**2) + 2 * l1 * tau / (math.sqrt(n) * s) + tau**2 * d)
    third = alpha / 2 * (l2 / (math.sqrt(n) * s) + math.sqrt(d) * tau) ** 2
    return min(first, second, third)


def skellam(alpha: int, n: int, s: float, l2: float, l1: float, d: int) -> float:
    """The Rényi divergence of Skellam noise of the variance ``n``·``s``²."""
    mu = n * s**2
    more = min(((2 * alpha - 1) * l2**2 + 6 * l1) / (4 * mu**2), 3 * l1 / (2 * mu))
    return alpha * l2**2 / (2 * mu) + more


def local_sigma(*, bits: int, n: int, d: int, z: float, k: float) -> float:
    """The standard deviation of one client's noise in steps of the grid, for clip 1."""
    sigma = z / math.sqrt(n)
    return sigma * math.sqrt(2 ** (2 * bits) - n * k * k) / (2 * k * math.sqrt(n * n / d + n * sigma**2))


def epsilon(kind: str, *, bits: int, n: int, d: int, z: float, k: float, delta: float, beta: float) -> float:
    """ε of one round, clip 1, everyone honest; ``d`` is a power of two."""
    sigma = z / math.sqrt(n)
    inverse = math.sqrt(2 ** (2 * bits) - n * k * k) / (2 * k * math.sqrt(n * n / d + n * sigma**2))
    s = sigma * inverse
    squared = (inverse + math.sqrt(d)) ** 2
    if beta > 0:
        deviation = math.sqrt(2 * math.log(1 / beta))
        squared = min(squared, inverse**2 + d / 4 + deviation * (inverse + math.sqrt(d) / 2))
    l2 = math.sqrt(math.floor(squared))
    l1 = l2 * min(math.sqrt(d), l2)
    bound = {"gaussian": gaussian, "skellam": skellam}[kind]
    return min(
        bound(alpha, n, s, l2, l1, d) + math.log(1 - 1 / alpha) - (math.log(delta) + math.log(alpha)) / (alpha - 1)
        for alpha in ORDERS
    )


def gaussian_pmf(sigma: float, reach: int) -> list[float]:
    """Probabilities of the discrete Gaussian at -``reach`` to ``reach``."""
    weights = [math.exp(-(k * k) / (2 * sigma * sigma)) for k in range(-reach, reach + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def sum_of(pmf: np.ndarray, count: int) -> np.ndarray:
    """The distribution of the sum of ``count`` independent draws from ``pmf``."""
    total = pmf
    for _ in range(count - 1):
        total = np.convolve(total, pmf)
    return total


def moved_delta(pmf: np.ndarray, shift: int, epsilon: float) -> float:
    """δ at ``epsilon`` between a symmetric ``pmf`` and the same moved by ``shift``: the hockey-stick divergence."""
    gap = np.zeros(shift)
    moved, still = np.concatenate([gap, pmf]), np.concatenate([pmf, gap])
    return float(np.maximum(0, moved - math.exp(min(epsilon, 700.0)) * still).sum())


def skellam_pmf(variance: float, reach: int) -> list[float]:
    """Probabilities of Skellam noise at -``reach`` to ``reach``: the difference of two Poissons, as it is."""
    mean = variance / 2
    top = reach + math.ceil(mean + 40 * math.sqrt(mean) + 40)
    poisson = [math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(top + reach + 1)]
    upper = [math.fsum(poisson[j + k] * poisson[j] for j in range(top)) for k in range(reach + 1)]
    return upper[:0:-1] + upper
