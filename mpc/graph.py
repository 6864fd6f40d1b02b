"""Sparse neighbour graphs for masks and shares: the degree they need, and each client's neighbours.

Bell et al., *Secure Single-Server Aggregation with (Poly)Logarithmic Overhead* (CCS 2020): n clients
sit on a ring in random order. The neighbours of a client are the k/2 clients on either side of it (a
Harary graph). The least k, and the number of shares that rebuild a secret, follow from how many
clients may be corrupt and how many may drop out.

Every probability here is the tail of a hypergeometric distribution, and is compared with a limit.
Parties on different machines must compute the same parameters. So a comparison that is too close for
floating point is decided in integers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb, floor, lgamma, log
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mpc._numbers import whole
from mpc.errors import MPCError
from mpc.keys import encode_parts, seeded_rng

#: What the server of a sparse graph may do: only read, or also lie once the graph is fixed.
Server = Literal["curious", "semi-malicious"]

SECURITY = 40
"""Bits: one random graph is bad with probability at most 2^-40."""

CORRECTNESS = 20
"""Bits: with the expected dropouts, an honest session fails with probability at most 2^-20."""

_LN2 = log(2)
_CLOSE = 1e-6  # in logarithms; the error of lgamma stays below 1e-7 up to 10^7 clients
_NEGLIGIBLE = 1e-18
_KEY_BYTES = 16


def harary_parameters(
    n: int,
    *,
    corruption: float,
    dropout: float,
    server: Server = "curious",
    security: int = SECURITY,
    correctness: int = CORRECTNESS,
) -> tuple[int, int]:
    """The least even degree for ``n`` clients, and its threshold.

    At most ⌊``corruption``·n⌋ clients are corrupt and at most ⌊``dropout``·n⌋ drop out. An adversary may choose
    which, but before the graph is known. A ``server`` that is ``"curious"`` follows the protocol. A
    ``"semi-malicious"`` one may send different lists of survivors to its clients. Against it, two disjoint halves
    of a neighbourhood must not both reach the threshold.

    ``security`` (bits) is split evenly over two bad events: the graph of the honest survivors is not connected; a
    client has as many corrupt neighbours as the threshold. ``correctness`` (bits) bounds the probability that a
    client has fewer surviving neighbours than the threshold. A threshold is never less than 2, which matters only
    if no client is corrupt.

    The parameters are those of Google's finder (``fcp/secagg/server/graph_parameter_finder.cc``), with one
    difference: the finder draws a client's neighbours from all n clients, including the client itself, so that its
    probability may be half a bit above the limit. Here they are drawn from the n - 1 others.

    Raises :class:`MPCError` if only the complete graph is dense enough.
    """
    nodes = _integer("n", n)
    security, correctness = _integer("security", security), _integer("correctness", correctness)
    shares = [_fraction(name, value) for name, value in (("corruption", corruption), ("dropout", dropout))]
    corrupt, dropping = (floor(share * nodes) for share in shares)
    parameters = sparse_parameters(
        nodes, corrupt=corrupt, dropping=dropping, server=server, security=security, correctness=correctness
    )
    if parameters is None:
        raise MPCError(
            f"got {nodes} clients of which {corrupt} may be corrupt and {dropping} may drop out; against a "
            f"{server} server no degree below n - 1 keeps the honest survivors connected and leaves room for a "
            "threshold: take the complete graph, or lower corruption or dropout"
        )
    return parameters


@lru_cache(maxsize=64)
def sparse_parameters(
    n: int,
    *,
    corrupt: int,
    dropping: int,
    server: Server = "curious",
    security: int = SECURITY,
    correctness: int = CORRECTNESS,
    windows: bool = False,
) -> tuple[int, int] | None:
    """Degree and threshold as in :func:`harary_parameters`, from numbers instead of fractions.

    At most ``corrupt`` clients are corrupt, and at most ``dropping`` drop out. None if only the complete graph is
    dense enough. With ``windows``, an honest session must also pass the check that every k/2 consecutive places on
    the ring hold more survivors than :func:`window_floor`, except with probability 2^-correctness.
    """
    n, corrupt, dropping = _integer("n", n), _integer("corrupt", corrupt), _integer("dropping", dropping)
    security, correctness = _integer("security", security), _integer("correctness", correctness)
    _check_numbers(n, corrupt, dropping, security, correctness)
    if server not in ("curious", "semi-malicious"):
        raise MPCError(f"got server={server!r}; expected 'curious' or 'semi-malicious'")
    # From one even degree to the next the room for a threshold grows by at most this much.
    growth = 2 if server == "curious" else 1
    degree = _least_connected(n, corrupt + dropping, security)
    while degree < n - 1:
        least = most_neighbours(n, corrupt, degree, security + 1)
        threshold = 1 + (least if server == "curious" else (least + degree) // 2)
        missing = [-((degree - most_neighbours(n, dropping, degree, correctness) - threshold) // growth)]
        if windows:
            half = degree // 2
            left = half - most_marked(n, dropping, half, correctness)
            missing.append(window_floor(n, corrupt=corrupt, window=half, security=security) + 1 - left)
        if max(missing) <= 0:
            return degree, max(2, threshold)
        degree += 2 * max(missing)
    return None


def window_floor(n: int, *, corrupt: int, window: int, security: int = SECURITY) -> int:
    """The least w such that ``window`` consecutive places on the ring hold at most w corrupt clients.

    ``n`` clients are on the ring, ``corrupt`` of them corrupt. The probability of an exception is at most
    2^-(``security`` + 1)/n for each of the n windows.
    """
    return most_marked(n, corrupt, window, security + 1)


def most_neighbours(n: int, marked: int, degree: int, bits: int) -> int:
    """The least x such that a client has more than x marked neighbours with probability at most 2^-``bits``/n.

    The client itself is not marked. Its ``degree`` neighbours are a random sample of the ``n`` - 1 others, of whom
    ``marked`` are marked.
    """
    return most_marked(n - 1, min(marked, n - 1), degree, bits, among=n)


def most_marked(n: int, marked: int, sample: int, bits: int, *, among: int | None = None) -> int:
    """The least x with Pr[X > x] ≤ 2^-``bits``/``among`` (by default /n), where X is hypergeometric.

    X is the number of marked items in a random sample of ``sample`` out of ``n``, ``marked`` of which are marked.
    """
    low, high = max(0, sample + marked - n), min(marked, sample)
    while low < high:
        middle = (low + high) // 2
        if _is_rare(n, marked, sample, middle, bits, among or n):
            high = middle
        else:
            low = middle + 1
    return low


def _is_rare(n: int, marked: int, sample: int, x: int, bits: int, among: int) -> bool:
    """Whether Pr[X > x] ≤ 2^-bits/among."""
    limit = -bits * _LN2 - log(among)
    at, last = x + 1, min(marked, sample)
    # The likeliest value alone has more than 1/(n + 1).
    if at <= (sample + 1) * (marked + 1) // (n + 2):
        return False
    first = _log_comb(marked, at) + _log_comb(n - marked, sample - at) - _log_comb(n, sample)
    if first > limit + _CLOSE:
        return False
    total = term = 1.0
    for j in range(at, last):
        term *= (marked - j) * (sample - j) / ((j + 1) * (n - marked - sample + j + 1))
        total += term
        if term < _NEGLIGIBLE * total:
            break

    def exactly() -> bool:
        ways = sum(comb(marked, j) * comb(n - marked, sample - j) for j in range(at, last + 1))
        return (ways * among << bits) <= comb(n, sample)

    return _below(first + log(total), limit, exactly)


def _least_connected(n: int, removed: int, security: int) -> int:
    """The least even degree at which two runs of k/2 neighbours are all ``removed`` only with negligible chance."""
    low, high = 1, max(1, (n - 1) // 2)
    while low < high:
        middle = (low + high) // 2
        if _stays_connected(n, removed, 2 * middle, security):
            high = middle
        else:
            low = middle + 1
    return 2 * low if _stays_connected(n, removed, 2 * low, security) else n


def _stays_connected(n: int, removed: int, degree: int, security: int) -> bool:
    if degree > removed:
        return True
    if degree >= n - 1 or removed > n:
        return False
    pairs = n * (n - degree - 1)  # of runs, twice
    chance = log(pairs / 2) + _log_comb(removed, degree) - _log_comb(n, degree)

    def exactly() -> bool:
        return (pairs * comb(removed, degree) << security) < comb(n, degree)

    return _below(chance, -(security + 1) * _LN2, exactly)


def _below(value: float, limit: float, exactly: Callable[[], bool]) -> bool:
    return value < limit if abs(value - limit) > _CLOSE else exactly()


def _log_comb(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def _fraction(name: str, value: float) -> Fraction:
    try:
        exact = Fraction(str(value))  # 0.05 means 1/20, not the nearest binary fraction
    except ValueError as error:
        raise MPCError(f"got {name}={value!r}; expected a fraction such as 0.05") from error
    if not 0 <= exact < 1:
        raise MPCError(f"got {name}={value}; expected at least 0 and below 1")
    return exact


def _integer(name: str, value: object) -> int:
    # NumPy's integers have the hashes of Python's, but they overflow.
    number = whole(value)
    if number is None:
        raise MPCError(f"got {name}={value!r}; expected an integer")
    return number


def _check_numbers(n: int, corrupt: int, dropping: int, security: int, correctness: int) -> None:
    if n < 1:
        raise MPCError(f"got {n} clients; expected at least 1")
    for name, value, least in (
        ("corrupt", corrupt, 0),
        ("dropping", dropping, 0),
        ("security", security, 1),
        ("correctness", correctness, 1),
    ):
        most = n if least == 0 else 1 << 10
        if not least <= value <= most:
            raise MPCError(f"got {name}={value}; expected {least} to {most}")


@dataclass(frozen=True, slots=True)
class Ring:
    """Nodes 0 to n - 1 in a circle: ``order[p]`` sits at place p, and node i at ``places[i]``."""

    order: NDArray[np.int64]
    places: NDArray[np.int64]

    def neighbours(self, node: int, degree: int) -> list[int]:
        """The ``degree``/2 nodes on each side of ``node``, sorted; ``degree`` is even and below n - 1."""
        around: list[int] = np.sort(self._around([node], degree)[0]).tolist()
        return around

    def ranks(self, node: int, degree: int) -> list[int]:
        """The rank of ``node``, from 0, among the sorted neighbours of each of its own neighbours.

        They are in the order of :meth:`neighbours`; ``degree`` is even and below n - 1.
        """
        around = np.sort(self._around([node], degree)[0])
        ranks: list[int] = (self._around(around, degree) < node).sum(axis=1).tolist()
        return ranks

    def _around(self, nodes: Sequence[int] | NDArray[np.int64], degree: int) -> NDArray[np.int64]:
        """The neighbours of each of ``nodes``, a row a node, in the order of the ring."""
        half = degree // 2
        steps = np.concatenate([np.arange(-half, 0), np.arange(1, half + 1)])
        around: NDArray[np.int64] = self.order.take(self.places[nodes][:, None] + steps, mode="wrap")
        return around

    def least_in_window(self, members: Sequence[bool] | NDArray[np.bool_], window: int) -> int:
        """The least number of ``members`` (one truth value a node) on any ``window`` consecutive places."""
        seated = np.asarray(members, dtype=np.int64)[self.order]
        counts = np.cumsum(np.concatenate([[0], seated, seated[: window - 1]]))
        return int((counts[window:] - counts[:-window]).min())


@lru_cache(maxsize=4)
def draw_ring(n: int, seed: bytes) -> Ring:
    """The ring of ``n`` nodes for ``seed`` (32 bytes): the same for all who know the seed.

    Node i has the i-th 16 bytes of AES-256-CTR under HKDF-SHA256 of the seed, read as two little-endian
    64-bit numbers. Nodes sit in the order of these numbers. The order is uniform unless two nodes have
    the same 128 bits.
    """
    octets = seeded_rng(seed, salt=b"", info=encode_parts("mpc/v1/ring"))(_KEY_BYTES * n)
    words = np.frombuffer(octets, dtype="<u8").reshape(n, 2)
    order = np.lexsort((words[:, 1], words[:, 0])).astype(np.int64)
    places = np.empty_like(order)
    places[order] = np.arange(n)
    order.flags.writeable = places.flags.writeable = False  # the cache hands the same ring to every caller
    return Ring(order, places)
