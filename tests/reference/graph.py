"""Graph parameters by whole numbers: every degree in turn, every tail a sum of binomial coefficients."""

from fractions import Fraction
from math import ceil, comb, floor


def probability(n: int, marked: int, sampled: int, x: int) -> Fraction:
    """Pr[X = x] where ``sampled`` of ``n`` are taken and ``marked`` of ``n`` are marked."""
    return Fraction(comb(marked, x) * comb(n - marked, sampled - x), comb(n, sampled))


def harary_parameters(
    n: int,
    corruption: Fraction,
    dropout: Fraction,
    server: str,
    security: int,
    correctness: int,
    *,
    windows: bool = False,
) -> tuple[int, int] | None:
    """The first even degree for which both conditions hold, as they are written down; None if there is none.

    With ``windows`` a third one: half a neighbourhood has more survivors than there can be corrupt ones in it.
    """
    a, d = floor(corruption * n), floor(dropout * n)
    for k in range(2, n - 1, 2):
        if k <= a + d:
            if a + d > n:
                return None
            runs = Fraction(n * (n - k - 1), 2)
            if not runs * Fraction(comb(a + d, k), comb(n, k)) < Fraction(1, 2 ** (security + 1)):
                continue
        # Neighbours of an honest client, and of one that survives: the n - 1 others are drawn from.
        corrupt = [probability(n - 1, min(a, n - 1), k, x) for x in range(k + 1)]
        surviving = [probability(n - 1, max(n - d - 1, 0), k, x) for x in range(k + 1)]
        t1 = min(t for t in range(k + 1) if sum(corrupt[t + 1 :]) <= Fraction(1, n * 2 ** (security + 1)))
        t2 = max(t for t in range(k + 1) if sum(surviving[:t]) <= Fraction(1, n * 2**correctness))
        if server == "semi-malicious":
            t1 = ceil((t1 + k - Fraction(5, 4)) / 2)
        left = k // 2 - least_exceeded(n, d, k // 2, correctness)
        if t1 < t2 and not (windows and left <= most_corrupt(n, a, k // 2, security)):
            return k, max(2, t1 + 1)
    return None


def least_exceeded(n: int, marked: int, sampled: int, bits: int) -> int:
    """The least x with Pr[X > x] of at most 2^-bits/n."""
    chances = [probability(n, marked, sampled, x) for x in range(sampled + 1)]
    return min(x for x in range(sampled + 1) if sum(chances[x + 1 :]) <= Fraction(1, n * 2**bits))


def most_corrupt(n: int, corrupt: int, window: int, security: int) -> int:
    """How many corrupt ones ``window`` places may hold, in all cases that count."""
    return least_exceeded(n, corrupt, window, security + 1)


def neighbours(order: list[int], node: int, degree: int) -> list[int]:
    """Those at most ``degree``/2 places away on the ring."""
    n, place = len(order), order.index(node)
    return sorted(order[(place + step) % n] for step in range(-(degree // 2), degree // 2 + 1) if step)


def least_in_window(order: list[int], members: list[bool], window: int) -> int:
    """The fewest members on ``window`` consecutive places."""
    n = len(order)
    return min(sum(members[order[(start + i) % n]] for i in range(window)) for start in range(n))
