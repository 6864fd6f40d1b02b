"""Powers by tables and kernels against pow(): the CPU's eight at once, GMP's one by one, on any executor."""

import os
import subprocess
import sys
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context

import gmpy2
import numpy as np
import pytest
from gmpy2 import mpz

from he import _montgomery, _powers
from he._powers import FixedBase, Ring
from he._rows import LANES, has_ifma
from he._strips import LIMB_BITS, STRIP
from he.errors import HEError
from he.paillier_keys import MAX_BITS
from tests.he.paillier_primes import KEY

paths = pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "gmp"])
ROOTS = {"p": KEY.p, "n": KEY.n, "high": 2**1024 - 1, "low": 2**1023 + 1}
roots = pytest.mark.parametrize("root", ROOTS.values(), ids=ROOTS)


@pytest.fixture
def path(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if kernel and not has_ifma():
        pytest.skip("no compiler, or no AVX-512 IFMA")
    monkeypatch.setattr(_powers, "compiled", lambda: kernel)


def words(numbers: list[int], bits: int) -> np.ndarray:
    size = 8 * -(-bits // 64)
    return np.frombuffer(b"".join(n.to_bytes(size, "little") for n in numbers), "<u8").reshape(len(numbers), -1)


def draw(count: int, below: int) -> list[int]:
    """The extremes, and numbers that are the same every time."""
    state = gmpy2.random_state(7)
    return ([0, 1, below - 1] + [int(gmpy2.mpz_random(state, below)) for _ in range(count)])[:count]


@pytest.mark.parametrize("root", [*ROOTS.values(), 3, (1 << MAX_BITS) - 1], ids=[*ROOTS, "shortest", "longest"])
@pytest.mark.parametrize("count", [1, LANES, LANES + 3])
def test_eight_products_at_once(root: int, count: int) -> None:
    """Any digits below 2N may go in, and digits below 2N come out. No column overflows under the longest key."""
    if not has_ifma():
        pytest.skip("no compiler, or no AVX-512 IFMA")
    ring = Ring(root)
    radix = 1 << LIMB_BITS * ring.limbs
    assert radix > 16 * root
    top = 2 * root - 1
    left = [(top, top), *zip(draw(count, 2 * root), draw(count, 2 * root)[::-1], strict=True)][:count]
    right = [(top, top), *zip(draw(count, 2 * root)[::-1], draw(count, 2 * root), strict=True)][:count]
    a, b = (
        ring._cut([mpz(digit) for pair in pairs for digit in pair]).reshape(count, -1) for pairs in (left, right)
    )
    out = np.empty_like(a)
    _montgomery.multiply(a, b, out, ring.constants)
    for (x0, x1), (y0, y1), limbs in zip(left, right, out.reshape(count, 2, -1).tolist(), strict=True):
        z0, z1 = (sum(limb << LIMB_BITS * i for i, limb in enumerate(digit)) for digit in limbs)
        assert max(z0, z1) < 2 * root
        assert (z0 + z1 * root) * radix % root**2 == (x0 + x1 * root) * (y0 + y1 * root) % root**2
    numbers = draw(count, root**2)
    assert ring.leave(ring.enter([mpz(number) for number in numbers])) == numbers


@roots
def test_a_square_is_the_product_with_itself(root: int) -> None:
    if not has_ifma():
        pytest.skip("no compiler, or no AVX-512 IFMA")
    ring, top = Ring(root), 2 * root - 1
    digits = [top, top, top, 0, 0, top, *draw(2 * LANES - 6, 2 * root)]
    limbs = ring._cut([mpz(digit) for digit in digits]).reshape(LANES, -1)
    batches = np.zeros((8, ring.limbs * LANES), np.uint64)
    batches[:2] = batches[2:4] = limbs.T.reshape(2, -1)  # limb i of eight numbers, first digits first
    scratch = np.zeros((4, (ring.limbs + STRIP) * LANES), np.uint64)
    for _ in range(2):  # what the first leaves in its scratch doesn't matter to the second
        _montgomery._follow(batches, np.array([[2, 0, 0], [3, 0, 1]]), ring.constants, scratch)
        assert np.array_equal(batches[4:6], batches[6:])
        assert np.array_equal(batches[:2], batches[2:4])
        assert batches[4:].any()


@paths
@roots
@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("count", [1, 3, 2 * LANES + 1, 60])
def test_powers_of_one_base(root: int, count: int) -> None:
    bits, modulus = 129, root**2
    exponents = draw(count, 1 << bits)
    fixed = FixedBase(Ring(root), mpz(3) ** 1000 % modulus, bits)
    powers = fixed.raise_base(words(exponents, bits))
    assert powers == [pow(3, 1000 * exponent, modulus) for exponent in exponents]
    assert fixed.width == 0 if count == 1 else fixed.width > 0 or count < LANES
    assert fixed.raise_base(words(exponents[:1], bits)) == powers[:1]


@paths
@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("width", range(1, 9))
def test_every_width_of_window(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = 129
    exponents = draw(LANES + 1, 1 << bits)
    fixed = FixedBase(Ring(KEY.p), mpz(5), bits)
    monkeypatch.setattr(fixed, "_choose", lambda count: width)
    assert fixed.raise_base(words(exponents, bits)) == [pow(5, exponent, KEY.p**2) for exponent in exponents]


def test_tables_are_made_where_they_pay() -> None:
    fixed = FixedBase(Ring(KEY.n), mpz(3), 1024)
    widths = [fixed._choose(count) for count in (1, 10, 100, 1000, 10**6)]
    assert widths[0] == 0
    assert widths == sorted(widths)
    assert widths[-1] == _powers.MAX_WIDTH
    fixed.width = widths[-1]
    assert fixed._choose(2) == widths[-1], "a table that is there is used, if it is wider than needed"


@paths
@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("exponent", [1, 31, 32, 65537, KEY.p - 1], ids=["1", "31", "32", "65537", "p-1"])
def test_powers_of_many_bases(exponent: int, threads: Executor) -> None:
    ring = Ring(KEY.p)
    bases = draw(2 * LANES + 3, KEY.p**2)
    powers = [pow(base, exponent, KEY.p**2) for base in bases]
    assert ring.raise_all([mpz(base) for base in bases], mpz(exponent)) == powers
    assert ring.raise_all([mpz(base) for base in bases], mpz(exponent), threads) == powers
    assert ring.raise_all([mpz(bases[5])], mpz(exponent)) == [powers[5]]


@paths
@pytest.mark.usefixtures("path")
def test_threads_change_nothing(threads: Executor) -> None:
    exponents = words(draw(50, 1 << 129), 129)
    ring = Ring(KEY.n)
    alone = FixedBase(ring, mpz(3), 129).raise_base(exponents)
    assert FixedBase(ring, mpz(3), 129).raise_base(exponents, threads) == alone


def test_processes_change_nothing() -> None:
    exponents = words(draw(20, 1 << 129), 129)
    ring = Ring(KEY.p)
    alone = FixedBase(ring, mpz(3), 129).raise_base(exponents)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        assert FixedBase(ring, mpz(3), 129).raise_base(exponents, executor) == alone


def test_a_worker_refuses_a_table_for_instructions_that_it_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is of the caller's machine, and its kernels would end the worker."""
    if not has_ifma():
        pytest.skip("no compiler, or no AVX-512 IFMA")
    ring, digits = Ring(KEY.p), np.zeros((8, 2), np.uint16)
    table = np.zeros((2, 16, 2 * ring.limbs), np.uint64)
    monkeypatch.setattr(_powers, "compiled", lambda: False)
    for work in (lambda: _powers._by_table(digits, table, ring), lambda: _powers._fill(table, ring)):
        with pytest.raises(HEError, match="workers with the caller's kind of CPU"):
            work()


@pytest.mark.parametrize(
    "setting", [{"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, {"NUMBA_DISABLE_JIT": "1"}]
)
def test_without_instructions_or_compiler_gmp_takes_over(setting: dict[str, str]) -> None:
    code = (
        "import numpy as np\n"
        "from gmpy2 import mpz\n"
        "from he import _powers\n"
        "from he.packing import Slots\n"
        "assert not _powers.compiled()\n"
        "slots = Slots(13, 7)\n"
        "values = np.arange(20, dtype=np.uint64) * 431 % 2**13\n"
        "assert (slots.unpack(slots.pack(values))[:20] == values).all()\n"
        "fixed = _powers.FixedBase(_powers.Ring(2**1024 - 1), mpz(3), 128)\n"
        "exponents = np.full((20, 2), 0x123456789, np.uint64)\n"
        "assert set(fixed.raise_base(exponents)) == {pow(3, 0x123456789 * (2**64 + 1), (2**1024 - 1)**2)}\n"
        "assert fixed.width\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")} | setting
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
