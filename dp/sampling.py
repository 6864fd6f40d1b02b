"""Exact noise on the integers: discrete Gaussian, discrete Laplace and Skellam.

The party that protects a value draws the noise, from the system's generator. Parameters are exact (a float stands
for the fraction that it is), and each integer has exactly its probability, because no float is rounded on the way
to a result. A word of 64 random bits is looked up in a table of cumulative probabilities, rounded down to 64 bits.
If the word equals an entry, which happens for one word in 2^64, both get further bits until they differ (lazy
refinement).

- **Narrow noise**: each word is compared with every entry of the table, so time and memory depend on the
  parameters only. ``constant_time`` demands or forbids this.
- **Wider noise**: each word is looked up in the table, which an attacker who measures the cache may observe.
- **Noise too wide for a table**: a block is drawn from a table, then a place within the block, and both are kept
  with a probability that is the ratio of their weights (rejection; Canonne, Kamath and Steinke 2020). A float with
  a margin of 2^8 times its error decides nearly always; otherwise integers decide. Very wide Skellam noise is a
  sum of narrower draws, because a sum of Skellam variables is a Skellam variable.
"""

import bisect
import math
import operator
import os
from collections.abc import Callable
from fractions import Fraction
from typing import Any, SupportsIndex

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from dp import _tables
from dp.errors import DPError

#: A vector of int64.
Integers = NDArray[np.int64]
Rng = Callable[[int], bytes]
"""A function that returns as many random bytes as it is asked for, like ``os.urandom``."""

MAX_SIZE = 2**30
"""The most integers that one call draws: 8 GiB."""

MAX_WIDTH = 2**52
"""The largest standard deviation or scale. int64 holds 2^10 times as much."""

MAX_SKELLAM_VARIANCE = 2**43
"""The largest variance of Skellam noise, a standard deviation of 2.9 million. Beyond it tables cost too much."""

_LEAST = Fraction(1, 2**64)
_SEED_BYTES = 32
_PIECE = 2**14  # words and integers of one piece stay in the cache of a core
_EVEN_ENTRIES = 256  # with so many thresholds, comparing with all of them still draws 20 million integers a second
_GAUSSIAN_LEVELS = 11  # bits of the standard deviation, in blocks: the tables have at most 20 000 entries
_LAPLACE_LEVELS = 10
_SKELLAM_TABLE_VARIANCE = 2**33
_WORD_BITS = 64


def sample_discrete_gaussian(
    sigma: Fraction | float, size: int, *, rng: Rng = os.urandom, constant_time: bool | None = None
) -> Integers:
    """``size`` integers, each k with probability proportional to exp(-k² / (2σ²)), where σ is ``sigma``.

    - ``sigma`` (2^-64 to 2^52): a Fraction, an int or a float, taken as exact. ``size``: 0 to 2^30.
    - ``rng``: called once, for the 32 bytes of an AES-256-CTR key from which all randomness is expanded. The same
      key produces the same noise.
    - ``constant_time``: True compares every word with all thresholds (about 10 ``sigma`` of them), and is refused
      for ``sigma`` >= 2048. False looks words up. None compares as long as that is fast, up to a ``sigma`` of
      about 27.

    The law is that of Canonne, Kamath and Steinke (2020). Raises :class:`DPError` for any other argument.
    """
    sigma = _parameter(sigma, "sigma", MAX_WIDTH)
    width = math.floor(sigma).bit_length() - _GAUSSIAN_LEVELS
    if width <= 0:
        return _draw(_tables.Gaussian(sigma**2), size, rng, constant_time)
    _refuse_constant_time(constant_time, "sigma", sigma, 2**_GAUSSIAN_LEVELS)
    blocks = _tables.Gaussian(sigma**2 / 4**width, one_sided=True)
    return _draw_wide(blocks, width, Fraction(0), 1 / (2 * sigma**2), size, rng)


def sample_discrete_laplace(
    scale: Fraction | float, size: int, *, rng: Rng = os.urandom, constant_time: bool | None = None
) -> Integers:
    """``size`` integers, each k with probability proportional to exp(-\\|k\\| / ``scale``).

    ``scale`` is 2^-64 to 2^52. ``constant_time=True`` is refused for a ``scale`` >= 1024; None compares up to a
    ``scale`` of about 5. Everything else is as in :func:`sample_discrete_gaussian`.
    """
    scale = _parameter(scale, "scale", MAX_WIDTH)
    width = math.floor(scale).bit_length() - _LAPLACE_LEVELS
    if width <= 0:
        return _draw(_tables.Laplace(scale), size, rng, constant_time)
    _refuse_constant_time(constant_time, "scale", scale, 2**_LAPLACE_LEVELS)
    blocks = _tables.Laplace(scale / 2**width, one_sided=True)
    return _draw_wide(blocks, width, 1 / scale, Fraction(0), size, rng)


def sample_skellam(
    variance: Fraction | float, size: int, *, rng: Rng = os.urandom, constant_time: bool | None = None
) -> Integers:
    """``size`` integers, each the difference of two Poisson variables of mean ``variance`` / 2.

    ``variance`` is 2^-64 to 2^43. The probability of k is exp(-variance) I_k(variance), and a sum of such integers
    has a Skellam law again. Above a variance of 2^33 each integer is a sum of draws of at most that variance, and
    the time grows with their number. ``constant_time=True`` is never refused, but is slow for many thresholds.
    Everything else is as in :func:`sample_discrete_gaussian`.
    """
    variance = _parameter(variance, "variance", MAX_SKELLAM_VARIANCE)
    parts = math.ceil(variance / _SKELLAM_TABLE_VARIANCE)
    law = _tables.Skellam(variance / parts)
    count = _size(size)
    stream = _Stream(rng)
    noise = _invert(law, count, stream, constant_time)
    for _ in range(parts - 1):
        noise += _invert(law, count, stream, constant_time)
    return noise


class _Stream:
    """Random words and bits: the AES-256-CTR stream of a 32-byte key that ``rng`` returns."""

    def __init__(self, rng: Rng) -> None:
        key = rng(_SEED_BYTES)
        if not isinstance(key, bytes | bytearray) or len(key) != _SEED_BYTES:
            got = f"{len(key)} bytes" if isinstance(key, bytes | bytearray) else type(key).__name__
            raise DPError(f"got {got} from rng({_SEED_BYTES}); expected {_SEED_BYTES} bytes: pass os.urandom")
        self._cipher = Cipher(algorithms.AES(bytes(key)), modes.CTR(bytes(16))).encryptor()

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next ``count`` words of 64 bits."""
        return np.frombuffer(self._cipher.update(bytes(8 * count)), dtype="<u8")

    def bits(self, count: int) -> int:
        """The next ``count`` bits, a multiple of 8, as an integer."""
        return int.from_bytes(self._cipher.update(bytes(count // 8)), "big")


def _draw(law: _tables.Law, size: int, rng: Rng, constant_time: bool | None) -> Integers:
    count = _size(size)
    return _invert(law, count, _Stream(rng), constant_time)


def _invert(
    law: _tables.Law, count: int, stream: _Stream, constant_time: bool | None, bits: int = _WORD_BITS
) -> Integers:
    """``count`` integers of ``law``. The highest ``bits`` of each word are compared before any refinement."""
    from dp import _kernels

    out = np.empty(count, dtype=np.int64)
    table = _tables.table(law, bits)
    even = table.size <= _EVEN_ENTRIES if constant_time is None else constant_time
    offset = np.uint64(1 << 63)
    signed = (table ^ offset).view(np.int64)
    guide, shift = _tables.guide(law, bits)
    for begin in range(0, count, _PIECE):
        part = out[begin : begin + _PIECE]
        words = stream.words(part.size)
        if bits < _WORD_BITS:
            words = words >> np.uint64(_WORD_BITS - bits)
        if even:
            undecided = _kernels.invert_evenly((words ^ offset).view(np.int64), signed, part)
        else:
            undecided = _kernels.invert(words, table, guide, shift, part)
        if undecided:
            for i in np.flatnonzero(part == _kernels.UNDECIDED):
                part[i] = _refine(law, int(words[i]), bits, stream)
        if not law.one_sided:
            _kernels.attach_signs(stream.words(-(-part.size // _WORD_BITS)), part)
    return out


def _refine(law: _tables.Law, word: int, bits: int, stream: _Stream) -> int:
    """Invert a word of ``bits`` that equals a threshold: double its bits until it equals none."""
    while True:
        word = word << bits | stream.bits(bits)
        bits *= 2
        entries = _tables.thresholds(law, bits)
        k = bisect.bisect_left(entries, word)
        if entries[k] != word:
            return k


def _draw_wide(blocks: _tables.Law, width: int, slope: Fraction, curve: Fraction, size: int, rng: Rng) -> Integers:
    """``size`` integers m + u with a sign, of weight exp(-(slope (m + u) + curve (m + u)²)).

    ``blocks`` is the law of m / 2^``width``. A proposal u < 2^``width`` is uniform, and is kept with a probability
    that is the ratio of the weights of m + u and m. About one proposal in a thousand is refused.
    """
    from dp import _kernels

    out = np.empty(_size(size), dtype=np.int64)
    stream = _Stream(rng)
    filled = 0
    while filled < out.size:
        piece = _place(blocks, width, slope, curve, min(_PIECE, out.size - filled), stream, _kernels.MARGIN)
        out[filled : filled + piece.size] = piece
        filled += piece.size
    return out


def _place(
    blocks: _tables.Law,
    width: int,
    slope: Fraction,
    curve: Fraction,
    count: int,
    stream: _Stream,
    margin: float,
) -> Integers:
    """Make ``count`` proposals, and return those that are kept, in order."""
    from dp import _kernels

    begins = _invert(blocks, count, stream, constant_time=False)
    words, coins = stream.words(count), stream.words(count)
    placed, status = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.uint8)
    undecided = _kernels.place(words, coins, begins, width, float(slope), float(curve), margin, placed, status)
    if undecided:
        for i in np.flatnonzero(status == _kernels.OPEN):
            m = int(begins[i]) << width
            u = abs(int(placed[i])) - m
            x = slope * u + curve * u * (2 * m + u)
            status[i] = _kernels.KEPT if _keeps(x, int(coins[i]), stream) else _kernels.REFUSED
    kept: Integers = placed[status == _kernels.KEPT]
    return kept


def _keeps(x: Fraction, coin: int, stream: _Stream) -> bool:
    """Whether a random fraction is at least 1 - exp(-``x``), decided in integers. ``coin`` is its first 64 bits."""
    bits = _WORD_BITS
    while True:
        least = (1 << bits) - _tables.exp_below(x, bits)
        if coin >= least:
            return True
        if coin + 1 <= least - 3:
            return False
        coin = coin << _WORD_BITS | stream.bits(_WORD_BITS)
        bits += _WORD_BITS


def _parameter(value: Any, name: str, most: int) -> Fraction:
    """``value`` as an exact fraction; :class:`DPError` unless it is a number in range."""
    try:
        if isinstance(value, bool | str):
            raise TypeError
        ratio = value.as_integer_ratio() if hasattr(value, "as_integer_ratio") else (value, 1)
        exact = Fraction(*map(operator.index, ratio))  # integers of NumPy would overflow
    except (TypeError, ValueError, OverflowError):
        raise DPError(
            f"got {value!r} for {name}; expected a finite number, such as 4.0 or Fraction(9, 2)"
        ) from None
    if not _LEAST <= exact <= most:
        got = f"{float(exact):g}" if abs(exact) < 2**1000 else "a number of more than 1000 bits"
        raise DPError(
            f"got {got} for {name}; expected 2^-64 to 2^{most.bit_length() - 1}: scale the values to which the "
            "noise is added"
        )
    return exact


def _size(size: SupportsIndex) -> int:
    try:
        if isinstance(size, bool):
            raise TypeError
        count = operator.index(size)
    except TypeError:
        raise DPError(f"got {size!r} for size; expected an int, the number of integers to draw") from None
    if not 0 <= count <= MAX_SIZE:
        got = count if abs(count) < 2**63 else "of more than 63 bits"
        raise DPError(f"got size {got}; expected 0 to {MAX_SIZE}: draw more in several calls")
    return count


def _refuse_constant_time(constant_time: bool | None, name: str, value: Fraction, below: int) -> None:
    if constant_time:
        raise DPError(
            f"got constant_time=True with {name} {float(value):g}; expected {name} below {below}, or "
            "constant_time=None: the sampler draws wider noise by rejection"
        )
