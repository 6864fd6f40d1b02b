"""``SECAGG_RING`` forces an arithmetic, and the bytes are the same under both."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pytest

from he import bfv, ckks, kahe
from he.errors import HEError
from he.ring import arithmetic, field, fields
from he.ring._vectors import Ifma, Word
from tests.he.ring.groups import needs_compiler, needs_ifma, prime_of

Scheme = bfv.Scheme | ckks.Scheme
SMALL, LARGE = prime_of(16, 50), prime_of(16, 51)


@needs_ifma
def test_ifma_takes_primes_below_2_to_the_50_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for forced in ("", "ifma"):
        monkeypatch.setenv("SECAGG_RING", forced)
        assert (arithmetic(SMALL), arithmetic(LARGE)) == (Ifma, Word)
        assert type(field(16, SMALL).modulus) is Ifma
    monkeypatch.delenv("SECAGG_RING")
    assert arithmetic(SMALL) is Ifma
    monkeypatch.setenv("SECAGG_RING", "word")
    assert arithmetic(SMALL) is Word
    assert type(field(16, SMALL).modulus) is Word  # not the field that is kept from before


def test_words_on_a_cpu_without_ifma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "has_ifma", lambda: False)
    for forced in ("", "word"):
        monkeypatch.setenv("SECAGG_RING", forced)
        assert arithmetic(SMALL) is Word
    monkeypatch.setenv("SECAGG_RING", "ifma")
    with pytest.raises(HEError, match=r"got SECAGG_RING=ifma, on a CPU without AVX-512 IFMA.*expected SECAGG_RING"):
        arithmetic(SMALL)


@pytest.mark.parametrize("forced", ["IFMA", "avx2", " word"])
def test_another_word_is_refused(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECAGG_RING", forced)
    with pytest.raises(HEError, match=rf"got SECAGG_RING='{forced}'; expected ifma or word"):
        arithmetic(SMALL)
    with pytest.raises(HEError, match="expected ifma or word"):
        bfv.Scheme(1, 1).generate()


ASK = "from he.ring import arithmetic; print(arithmetic(97).__name__)"


@needs_compiler
@pytest.mark.parametrize("setting", ["NUMBA_CPU_NAME=generic", "NUMBA_DISABLE_JIT=1"])
def test_a_process_without_ifma_refuses_to_be_forced(setting: str) -> None:
    """As on another CPU: Numba compiles for the CPU that it is told."""
    environment = {**os.environ, "NUMBA_CPU_FEATURES": "", **dict([setting.split("=")])}
    environment.pop("SECAGG_RING", None)
    for forced, code, words in (("", 0, "Word"), ("ifma", 1, "HEError: got SECAGG_RING=ifma, on a CPU without")):
        done = subprocess.run(
            [sys.executable, "-c", ASK],
            env=environment | ({"SECAGG_RING": forced} if forced else {}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == code
        assert words in done.stdout + done.stderr


def fixed(octet: int) -> Callable[[int], bytes]:
    return lambda n: bytes([octet]) * n


SCHEMES: dict[str, Callable[[], Scheme]] = {
    "bfv": lambda: bfv.Scheme(65534, 256),
    "bfv-seeded": lambda: bfv.Scheme(65534, 256, seeded=True),
    "bfv-two-primes": lambda: bfv.Scheme(2**32 - 2, 4096),
    "ckks": lambda: ckks.Scheme(65534, 256),
    "ckks-seeded": lambda: ckks.Scheme(65534, 256, seeded=True),
}


@needs_ifma
@pytest.mark.parametrize("name", SCHEMES)
def test_encrypted_sums_are_the_same_bytes_under_both(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, uploads and sums follow from the seed alone. The vector ends inside of a second group."""
    whole: dict[str, list[bytes]] = {}
    for forced in ("ifma", "word"):
        monkeypatch.setenv("SECAGG_RING", forced)
        scheme = SCHEMES[name]()
        length = 9 * scheme.slots + 5
        vectors = [np.random.default_rng(seed).integers(0, scheme.bound, length, endpoint=True) for seed in (2, 3)]
        vectors[0][:3] = 0, scheme.bound, scheme.bound
        key = scheme.generate(lambda n: bytes(range(n)))
        assert {type(each.modulus) for each in scheme._fields} == {Ifma if forced == "ifma" else Word}
        adder = scheme.adder(length)
        uploads = [key.encrypt(vector, rng=fixed(octet)) for octet, vector in enumerate(vectors)]
        for upload in uploads:
            adder.fold(upload)
        opened = key.open(adder.total(), length, 2)
        assert (opened == vectors[0].astype(np.int64) + vectors[1].astype(np.int64)).all()
        whole[forced] = [key.to_bytes(), *uploads, adder.total(), opened.tobytes()]
    assert whole["ifma"] == whole["word"]


class OtherCPU(Executor):
    """Does its work on copies, by the other arithmetic than its caller's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.tasks = monkeypatch, 0

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        self.tasks += 1
        done: Future[Any] = Future()
        sent, here = pickle.dumps((function, arguments)), os.environ["SECAGG_RING"]
        with self.monkeypatch.context() as there:
            there.setenv("SECAGG_RING", "word" if here == "ifma" else "ifma")
            function, arguments = pickle.loads(sent)
            returned = pickle.dumps(function(*arguments))
        done.set_result(pickle.loads(returned))
        return done


@needs_ifma
@needs_compiler
@pytest.mark.parametrize("forced", ["ifma", "word"])
def test_workers_with_another_cpu_give_the_same_bytes(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed for one arithmetic only, such as a factor's quotients, is not sent."""
    monkeypatch.setenv("SECAGG_RING", forced)
    there = OtherCPU(monkeypatch)
    scheme = SCHEMES["bfv"]()
    key, values = scheme.generate(lambda n: bytes(range(n))), np.arange(17 * scheme.slots) % 65535
    upload = key.encrypt(values, rng=fixed(1))
    assert key.encrypt(values, there, rng=fixed(1)) == upload
    adder = scheme.adder(len(values))
    adder.fold(upload)
    assert (key.open(adder.total(), len(values), 1, there) == values).all()

    once, vector = kahe.Scheme(((140_000, 2**60 - 1),), 2), [np.arange(140_000) << 40]
    assert len(once.parameters.rows) > 1
    secret, public = bytes(32), bytes(range(32))
    sealed = once.encrypt(vector, secret, public)
    assert once.encrypt(vector, secret, public, there) == sealed
    (opened,) = once.open(sealed, once.key(secret, public).astype(np.int64), 1, public, there)
    assert (opened == vector[0]).all()
    assert there.tasks > 6
