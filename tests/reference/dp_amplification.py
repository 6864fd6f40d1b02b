"""Poisson sampling of any mechanism, as Zhu and Wang (2019) bound it: term by term in 60 digits."""

from collections.abc import Callable

import mpmath


def poisson(alpha: int, rate: float, cost: Callable[[int], float], factor: int = 3) -> float:
    """The Rényi divergence at ``alpha`` of a mechanism of divergences ``cost`` on a sample of ``rate``.

    ``factor`` is the theorem's, of the terms of order 3 and above. No more than without the sampling.
    """
    with mpmath.workdps(60):
        r = mpmath.mpf(rate)
        total = (1 - r) ** (alpha - 1) * (alpha * r - r + 1)
        total += mpmath.binomial(alpha, 2) * r**2 * (1 - r) ** (alpha - 2) * mpmath.exp(cost(2))
        for order in range(3, alpha + 1):
            weight = mpmath.binomial(alpha, order) * (1 - r) ** (alpha - order) * r**order
            total += factor * weight * mpmath.exp((order - 1) * mpmath.mpf(cost(order)))
        return min(float(mpmath.log(total) / (alpha - 1)), cost(alpha))


def fixed_size(
    alpha: int, rate: float, cost: Callable[[int], float], moment: Callable[[int], float] | None
) -> float:
    """A sample of fixed size, as Wang, Balle and Kasiviswanathan (2019) bound it: Theorem 9, in 60 digits.

    ``moment(j)`` is E[(P/Q - 1)^j] for even j, where it is known; without it the bound is that of any mechanism.
    """
    with mpmath.workdps(60):
        r, total = mpmath.mpf(rate), mpmath.mpf(1)
        for order in range(2, alpha + 1):
            growth = mpmath.exp((order - 1) * mpmath.mpf(cost(order)))
            term = 2 * growth
            if order == 2:
                term = min(4 * (growth - 1), term)
            elif moment is not None:
                term = min(term, 4 * mpmath.sqrt(moment(order - order % 2) * moment(order + order % 2)))
            total += mpmath.binomial(alpha, order) * r**order * term
        return min(float(mpmath.log(total) / (alpha - 1)), cost(alpha))
