"""The AES kernel: its key schedule, its choice, and how a process finds out that it is wrong."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features  # type: ignore[import-untyped]

from mpc import MPCError, _aes, masks

CPUS = {
    128: {"NUMBA_CPU_NAME": "westmere", "NUMBA_CPU_FEATURES": "+aes"},
    256: {"NUMBA_CPU_NAME": "alderlake", "NUMBA_CPU_FEATURES": "+aes,+avx2,+vaes"},
}
HERE = [bits for bits in _aes.WIDTHS if bits <= _aes.widest()]

needs_kernel = pytest.mark.skipif(not HERE, reason="no compiler, or no AES instructions")


@pytest.fixture
def choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], int]]:
    """Chooses the path anew, with a value of the variable."""

    def width(value: str) -> int:
        monkeypatch.setenv(masks.VARIABLE, value)
        masks.width.cache_clear()
        return masks.width()

    yield width
    masks.width.cache_clear()


@pytest.mark.parametrize("bits", HERE)
def test_published_key_schedule(bits: int) -> None:
    """FIPS 197, appendix A.3. The last round key of a stream that is subtracted is inverted."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    last = bytes.fromhex("fe4890d1e6188d0b046df344706c631e")
    rows = _aes.schedules([(key, 1), (key, -1)])
    _aes.kernel(bits)(np.empty(0, np.uint8), 4, rows, 0, 0)
    added, subtracted = (row.tobytes() for row in rows.reshape(2, -1))
    assert added[:32] == subtracted[:32] == key
    assert added[224:240] == last
    assert subtracted[224:240] == bytes(~byte & 255 for byte in last)
    assert added[:224] == subtracted[:224]


@pytest.mark.parametrize("bits", CPUS)
def test_masks_pass_their_tests_with_the_instructions_of_older_cpus(bits: int) -> None:
    if bits not in HERE or (bits == 256 and not get_host_cpu_features().get("vaes")):
        pytest.skip("no compiler, or no such instructions")
    code = (
        "import sys, pytest\n"
        "from mpc import _aes, masks\n"
        f"assert _aes.widest() == {bits} == masks.width()\n"
        f"options = ['-q', '-p', 'no:benchmark', '-p', 'no:xdist', '-k', 'kernel{bits}']\n"
        "sys.exit(pytest.main([*options, sys.argv[1]]))\n"
    )
    tests = str(Path(__file__).with_name("test_masks.py"))
    environment = os.environ | CPUS[bits] | {masks.VARIABLE: ""}
    run = subprocess.run([sys.executable, "-c", code, tests], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@needs_kernel
def test_the_variable_forces_a_path(choice: Callable[[str], int]) -> None:
    assert [choice(str(bits)) for bits in HERE] == HERE
    assert choice("openssl") == 0
    assert choice("") == HERE[-1]


@pytest.mark.parametrize(
    ("value", "widest", "reason"),
    [
        (
            "1024",
            512,
            "got SECAGG_KERNEL='1024', on a CPU .* up to 512 bits; expected openssl, 128, 256, 512, or no",
        ),
        ("OpenSSL", 256, "expected openssl, 128, 256, or no such variable"),
        ("512", 256, "got SECAGG_KERNEL='512', on a CPU with AES .* up to 256 bits; expected openssl, 128, 256"),
        ("128", 0, "on a CPU without AES instructions, or with the compiler off .*; expected openssl, or no such"),
    ],
)
def test_a_path_that_is_not_here_is_refused(
    value: str, widest: int, reason: str, choice: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_aes, "widest", lambda: widest)
    with pytest.raises(MPCError, match=reason):
        choice(value)


@needs_kernel
def test_every_path_has_the_same_bits_and_a_kernel_of_its_own_in_the_cache(tmp_path: Path) -> None:
    """All processes share one cache. Only the last one finds its kernel there."""
    code = (
        "import hashlib, numpy as np\n"
        "from mpc import masks\n"
        "digest = hashlib.sha256()\n"
        "for dtype in ('<u4', '<u8'):\n"
        "    keyed = [(bytes([i]) * 32, 1 if i % 3 else -1) for i in range(5)]\n"
        "    digest.update(masks.mask_sum(keyed, 3, 10_001, dtype).tobytes())\n"
        "stats = __import__('mpc._aes')._aes.kernel(masks.width()).stats if masks.width() else None\n"
        "print(masks.width(), sum(stats.cache_hits.values()) if stats else 0, digest.hexdigest())\n"
    )

    def run(value: str) -> list[str]:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), masks.VARIABLE: value}
        command = [sys.executable, "-W", "error", "-c", code]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    digest = hashlib.sha256()
    for dtype in ("<u4", "<u8"):
        total = np.zeros(10_001, dtype)
        for i in range(5):
            masks._add_by_openssl(total, [(bytes([i]) * 32, 1 if i % 3 else -1)], *divmod(3, 16 // total.itemsize))
        digest.update(total.tobytes())
    for bits in (0, *HERE):
        assert run(str(bits or "openssl")) == [str(bits), "0", digest.hexdigest()]
    assert run("") == [str(HERE[-1]), "1", digest.hexdigest()]


Kernel = Callable[..., None]


def one_key_fewer(add: Kernel) -> Kernel:
    return lambda vector, lane, rows, block, skipped: add(vector, lane, rows[:-256], block, skipped)


def only_adding(add: Kernel) -> Kernel:
    def wrong(vector: Any, lane: int, rows: Any, block: int, skipped: int) -> None:
        rows.reshape(-1, 256)[:, 32:] = 0
        add(vector, lane, rows, block, skipped)

    return wrong


def counting_to_32_bits(add: Kernel) -> Kernel:
    def wrong(vector: Any, lane: int, rows: Any, block: int, skipped: int) -> None:
        before = min(16 * (2**32 - block) - skipped, len(vector))
        add(vector[:before], lane, rows.copy(), block, skipped)
        add(vector[before:], lane, rows, 0, 0)

    return wrong


def with_wrong_lanes(add: Kernel) -> Kernel:
    return lambda vector, lane, rows, block, skipped: add(vector, 12 - lane, rows, block, skipped)


def from_whole_blocks(add: Kernel) -> Kernel:
    return lambda vector, lane, rows, block, skipped: add(vector, lane, rows, block, 0)


def to_whole_pieces(add: Kernel) -> Kernel:
    return lambda vector, lane, rows, block, skipped: add(
        vector[: len(vector) // 512 * 512 - skipped], lane, rows, block, skipped
    )


def of_32_bit_lanes_alone(add: Kernel) -> Kernel:
    return lambda vector, lane, rows, block, skipped: add(vector, 4, rows, block, skipped)


WRONG = (
    *(one_key_fewer, only_adding, counting_to_32_bits, with_wrong_lanes, from_whole_blocks, to_whole_pieces),
    of_32_bit_lanes_alone,
)


@needs_kernel
@pytest.mark.parametrize("bits", HERE)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_kernel_is_noticed_at_its_first_use(
    bits: int,
    wrong: Callable[[Kernel], Kernel],
    choice: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Control: without the comparison at first use, a sum is wrong."""
    keyed = [(bytes(32), 1), (bytes(range(32)), -1)]

    def total() -> Any:
        return [masks.mask_sum(keyed, 4 * 2**32 - 3, 99, dtype) for dtype in ("<u4", "<u8")] + [
            masks.mask_sum(keyed, 2 * 2**32 - 1, 99, "<u8")
        ]

    choice("openssl")
    expected = total()
    kernel = wrong(_aes.kernel(bits))
    monkeypatch.setattr(_aes, "kernel", lambda _: kernel)
    assert choice(str(bits)) == 0
    assert np.array_equal(np.concatenate(total()), np.concatenate(expected))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"vectors of {bits} bits does not return OpenSSL's bits, so OpenSSL is used" in caplog.text

    monkeypatch.setattr(masks, "_agrees", lambda bits: True)
    assert choice(str(bits)) == bits
    assert not np.array_equal(np.concatenate(total()), np.concatenate(expected))


@pytest.mark.parametrize("setting", [{"NUMBA_CPU_NAME": "generic"}, {"NUMBA_DISABLE_JIT": "1"}])
def test_without_instructions_or_compiler_openssl_takes_over(setting: dict[str, str]) -> None:
    code = (
        "import numpy as np\n"
        "from mpc import masks\n"
        "out = np.zeros(4, np.uint32)\n"
        "masks.add_mask(out, bytes(32))\n"
        "assert not masks.compiled()\n"
        "print(out.tobytes().hex())\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")} | setting
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "dc95c078a2408989ad48a21492842087"


@pytest.mark.parametrize(
    ("triple", "features", "bits"),
    [
        ("x86_64-unknown-linux-gnu", "+aes,+avx2,+avx512f,+vaes", 512),
        ("x86_64-unknown-linux-gnu", "+aes,+avx2,-avx512f,+vaes", 256),
        ("x86_64-unknown-linux-gnu", "+aes,+avx2,+avx512f,-vaes", 128),
        ("x86_64-unknown-linux-gnu", "-aes,+avx2", 0),
        ("x86_64-unknown-linux-gnu", "", 0),
        ("aarch64-unknown-linux-gnu", "+aes,+neon", 0),
    ],
)
def test_the_widest_vector_is_chosen(
    triple: str, features: str, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 0)

    class Codegen:
        def magic_tuple(self) -> tuple[str, str, str]:
            return triple, "", features

    assert _aes.widest(Codegen()) == bits


def test_numba_tells_cached_kernels_of_other_cpus_and_widths_apart() -> None:
    """``mpc._aes`` relies on it."""
    if numba.config.DISABLE_JIT:
        pytest.skip("nothing is compiled, so nothing is cached")
    dispatchers: list[Any] = [_aes.kernel(128), _aes.kernel(256)]

    class Codegen:
        def __init__(self, features: str) -> None:
            self.features = features

        def magic_tuple(self) -> tuple[str, str, str]:
            return "x86_64-unknown-linux-gnu", "", self.features

    keys = {
        dispatcher._cache.own._index_key((), Codegen(features))
        for features in ("+aes", "+aes", "+aes,+vaes")
        for dispatcher in dispatchers
    }
    assert len(keys) == 4
