"""CKKS and BFV on one core: this package's kernels, SEAL through TenSEAL, and NVFlare's defaults, in turn.

The work is that of ``bench peers``: 100,000 values of 16 bits, in sums of up to 256 clients. Encryption goes from
integers to bytes, folding from bytes to the running sum, opening from bytes to integers. The transform and the
keystream, on which all else depends, are timed too. The process is held to one core, and all sides of a comparison
take turns in it, so that ratios carry from machine to machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench import kahe_calls, peer_he, rlwe_calls
from bench.bounds import Bound
from bench.measure import Spread, Timer, Turns, WrongSum
from bench.peer_calls import TENSEAL
from bench.peers import require, times
from bench.report import Grid
from bench.rlwe_calls import ENCRYPT, FOLD, OPEN, SCHEMES, VALUES
from he import ring
from he.errors import INSTALL
from secagg.errors import ConfigError, SecAggError

DEGREE, PRIME_BITS = 4096, 49  # of the transform
STREAM = 1 << 18  # bytes of a keystream, which stay in the second-level cache
RING, SEAL, BEFORE, NVFLARE = "engine ring", "engine seal", "before", "NVFlare"
ENGINES = {RING: {"engine": "ring"}, SEAL: {"engine": "seal"}}  # and the keywords that choose them, ours first
KEYSTREAM, TRANSFORM = "AES-256-CTR", f"transform of {DEGREE} coefficients"

#: Scheme → how many times as fast encryption is held to be as before, or without another checkout as SEAL's engine.
OVER_OLD = {"BFV, public key": 10.0, "BFV, seeded": 10.0, "CKKS, seeded": 10.0}
OVER_OLD_WITHOUT_IFMA = 5.0
#: Scheme → how many times as fast as NVFlare encryption is held to be.
OVER_NVFLARE = {"BFV, seeded": 25.0, "CKKS, seeded": 25.0}
OVER_SEALS_TRANSFORM = 3.0
#: Most keystream in the time of a transform, in bytes: of 6.6 microseconds at 5.6 GB/s, and half as much again.
TRANSFORM_BYTES = 1.5 * 6.6e-6 * 5.6e9


@dataclass(frozen=True)
class Side:
    """One side of a comparison: what to time, its units, the ciphertexts that it works on, and bytes of a value."""

    timer: Timer
    units: int = VALUES
    ciphertexts: int | None = None
    bytes_each: float | None = None


@dataclass(frozen=True)
class Timed:
    """The result of one side. ``seconds`` are of a unit; ``ratio`` is how many times as long as the first side.

    ``ratio`` is taken turn by turn; ``best`` is of the best turns of both.
    """

    work: str
    peer: str
    seconds: Spread
    in_ciphertext: float | None
    our_bytes: float | None
    ratio: Spread
    best: float


class Comparing:
    """The comparisons in progress. ``timed`` holds what was measured so far."""

    def __init__(self, before: Path | None = None) -> None:
        if TENSEAL.version is None:
            raise SecAggError(f"TenSEAL, with which all is compared, is not installed: {INSTALL}")
        if before is not None and not (before / "he" / "bfv.py").is_file():
            raise ConfigError(f"got --before {before}; expected a folder with a checkout, which has he/bfv.py")
        self.before = before
        self.timed: list[Timed] = []
        self.core = max(os.sched_getaffinity(0))
        self.arithmetic = arithmetic()

    @property
    def steps(self) -> int:
        """How often :meth:`run` calls ``step``."""
        return 3 * len(SCHEMES) + 2

    def run(self, repeats: int, seconds: float, step: Callable[[str, str], None]) -> None:
        """Measure everything, each comparison in ``repeats`` turns and about ``seconds`` at most."""
        with ExitStack() as stack:
            stack.enter_context(one_core(self.core))
            old = None if self.before is None else stack.enter_context(Elsewhere(self.before))
            step(TRANSFORM, "")
            self._compare(TRANSFORM, transforms(), repeats, seconds)
            for name in SCHEMES:
                for work, sides in _sides(name, old).items():
                    step(name, work)
                    self._compare(f"{name}: {work}", sides, repeats, seconds)
            step(kahe_calls.NAME, "")
            self._compare(kahe_calls.NAME, _one_time(), repeats, seconds)

    def _compare(self, work: str, sides: Mapping[str, Side], repeats: int, seconds: float) -> None:
        turns = Turns.of({name: side.timer for name, side in sides.items()}, repeats, seconds)
        each = Turns({name: [one / sides[name].units for one in turns.seconds[name]] for name in sides})
        ours = next(iter(sides))
        for name, side in sides.items():
            taken = each.seconds[name]
            self.timed.append(
                Timed(
                    work=work,
                    peer=name,
                    seconds=Spread.of(taken),
                    in_ciphertext=None if side.ciphertexts is None else side.units / side.ciphertexts,
                    our_bytes=side.bytes_each,
                    ratio=each.ratio(name, ours),
                    best=min(taken) / min(each.seconds[ours]),
                )
            )

    def bounds(self) -> list[Bound]:
        """What our engine is held to, by the medians of the ratios."""
        median = {(one.work, one.peer): one.ratio.median for one in self.timed}
        old = SEAL if self.before is None else BEFORE
        ifma = self.arithmetic == "ifma"
        wanted = [
            (f"{name}: {ENCRYPT}", old, least if ifma else OVER_OLD_WITHOUT_IFMA)
            for name, least in OVER_OLD.items()
        ]
        if ifma:
            wanted += [(f"{name}: {ENCRYPT}", NVFLARE, least) for name, least in OVER_NVFLARE.items()]
            wanted.append((TRANSFORM, SEAL, OVER_SEALS_TRANSFORM))
        if self.before is not None:  # both engines fold and open by the same code
            wanted += [(f"{name}: {work}", BEFORE, 1.0) for name in SCHEMES for work in (FOLD, OPEN)]
        bounds = [
            Bound(f"{work}, times as fast as {peer}", median[work, peer], least=least)
            for work, peer, least in wanted
            if (work, peer) in median
        ]
        if ifma and (TRANSFORM, KEYSTREAM) in median:
            kilobytes = 1e-3 / median[TRANSFORM, KEYSTREAM]
            what = f"{TRANSFORM}: kB of keystream in its time"
            bounds.append(Bound(what, kilobytes, most=TRANSFORM_BYTES / 1e3))
        if (kahe_calls.NAME, OPEN) in median:
            spent = next(one.seconds.median for one in self.timed if one.work == kahe_calls.NAME)
            bounds += kahe_calls.bounds(1 / spent, median[kahe_calls.NAME, OPEN], ifma)
        return bounds


@contextmanager
def one_core(core: int) -> Iterator[None]:
    """Hold this thread, and the threads and processes that it starts, to ``core``."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def arithmetic() -> str:
    """The arithmetic of our transform: ``ifma`` or ``word``."""
    return ring.arithmetic(_prime()).__name__.lower()


@dataclass(frozen=True)
class Local:
    """Work of this process."""

    work: rlwe_calls.Work

    def seconds(self, times: int = 1) -> float:
        """See :func:`bench.rlwe_calls.seconds`."""
        return rlwe_calls.seconds(self.work, times)


class Elsewhere:
    """Another checkout's ``he`` in a process of its own, which works while this one waits."""

    def __init__(self, folder: Path) -> None:
        self._run = subprocess.Popen(
            [sys.executable, "-P", str(Path(rlwe_calls.__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder.resolve())},
        )
        loaded = self._answer()
        if not Path(loaded).resolve().is_relative_to(folder.resolve()):
            self.__exit__()
            raise ConfigError(f"got --before {folder}, where Python finds {loaded} instead of its package he")

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        self._run.kill()
        self._run.communicate()

    def ask(self, name: str, work: str | None, times: int) -> Any:
        """The answer to one line; see :func:`bench.rlwe_calls.main`."""
        assert self._run.stdin is not None
        with suppress(BrokenPipeError):  # there is no answer either
            print(json.dumps([name, work, times]), file=self._run.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._run.stdout is not None
        line = self._run.stdout.readline()
        if not line:
            raise SecAggError("the other checkout's process ended early; its error is above")
        return json.loads(line)


@dataclass(frozen=True)
class Remote:
    """Work of another checkout."""

    process: Elsewhere
    name: str
    work: str

    def seconds(self, times: int = 1) -> float:
        """Seconds as the other process measured them."""
        return float(self.process.ask(self.name, self.work, times))


def transforms() -> dict[str, Side]:
    """From coefficients to values, ours first; and a part of a keystream, as ``cryptography`` makes it."""
    encryptor = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    zeros, into = bytes(STREAM), bytearray(STREAM + 15)
    stream = Side(Local((lambda: encryptor.update_into(zeros, into), None)), units=STREAM)
    return {RING: _our_transform(), SEAL: _seals_transform(), KEYSTREAM: stream}


def _our_transform() -> Side:
    field, group = ring.field(DEGREE, _prime()), ring.lanes(DEGREE)
    group[:] = np.random.default_rng(0).integers(0, _prime(), group.shape, dtype=np.uint64)
    before = group.copy()
    field.forward(group)
    field.backward(group)
    require((group == before).all(), "he.ring's transform")
    return Side(Local((lambda: field.forward(group), None)), units=ring.LANES)


def _seals_transform() -> Side:
    """The two polynomials of a ciphertext, by SEAL's evaluator."""
    import tenseal.sealapi as api

    settings = api.EncryptionParameters(api.SCHEME_TYPE.CKKS)
    settings.set_poly_modulus_degree(DEGREE)
    settings.set_coeff_modulus(api.CoeffModulus.Create(DEGREE, [PRIME_BITS]))
    context = api.SEALContext(settings, False, api.SEC_LEVEL_TYPE.TC128)
    key, ciphertext = api.PublicKey(), api.Ciphertext()
    api.KeyGenerator(context).create_public_key(key)
    api.Encryptor(context, key).encrypt_zero(ciphertext)
    evaluator = api.Evaluator(context)
    work = (
        lambda _: evaluator.transform_to_ntt_inplace(ciphertext),
        lambda: evaluator.transform_from_ntt_inplace(ciphertext),
    )
    return Side(Local(work), units=2)


def _prime() -> int:
    import tenseal.sealapi as api

    return int(api.CoeffModulus.Create(DEGREE, [PRIME_BITS])[0].value())


def _sides(name: str, old: Elsewhere | None) -> dict[str, dict[str, Side]]:
    """Work → side, our engine first. Every answer was checked."""
    sides: dict[str, dict[str, Side]] = {ENCRYPT: {}, FOLD: {}, OPEN: {}}
    for engine, keywords in ENGINES.items():
        try:
            works, ciphertexts, each = rlwe_calls.calls(name, keywords)
        except ArithmeticError as wrong:
            raise WrongSum(str(wrong)) from wrong
        for work, call in works.items():
            sides[work][engine] = Side(Local(call), VALUES, ciphertexts, each if work == ENCRYPT else None)
    if old is not None:
        ciphertexts, each = old.ask(name, None, 0)
        for work, of in sides.items():
            of[BEFORE] = Side(Remote(old, name, work), VALUES, ciphertexts, each if work == ENCRYPT else None)
    pairs = {ENCRYPT: peer_he.nvflare_encrypt, FOLD: peer_he.nvflare_add, OPEN: peer_he.nvflare_decrypt}
    ciphertexts = peer_he.TENSORS * -(-peer_he.TENSOR // 4096)  # half of NVFlare's degree of 8192 are slots
    for work, make in pairs.items():
        pair = make()
        theirs = Local((pair.theirs.run, pair.theirs.setup))
        sides[work][NVFLARE] = Side(theirs, pair.their_units, ciphertexts, pair.their_bytes)
    return sides


def _one_time() -> dict[str, Side]:
    """Work of one-time keys as the sides of one comparison, encryption first."""
    try:
        works, each = kahe_calls.calls()
    except ArithmeticError as wrong:
        raise WrongSum(str(wrong)) from wrong
    return {
        name: Side(Local(work), kahe_calls.VALUES, None, each if name == ENCRYPT else None)
        for name, work in works.items()
    }


def grids(comparing: Comparing, processor: str) -> list[Grid]:
    """The tables: a row for each side of each comparison, and the transform and the keystream apart."""
    if not comparing.timed:
        return []
    rows = [
        (
            one.work,
            one.peer,
            "" if one.in_ciphertext is None else _both(one.seconds, 1e6 * one.in_ciphertext),
            _both(one.seconds, 1e9),
            "" if one.our_bytes is None else f"{one.our_bytes:.3g}",
            *_ratio(one),
        )
        for one in comparing.timed
        if one.work != TRANSFORM
    ]
    notes = [
        f"{processor}, core {comparing.core} alone. {VALUES:,} values of 16 bits, sums of up to "
        f"{rlwe_calls.CLIENTS} clients: from integers to bytes, from bytes to the running sum, and from the sum's "
        "bytes to integers.",
        "Seconds of the processor. All sides took turns, each after an untimed run of its own: medians, and in "
        f"brackets the best turns. Times as long as {RING}: turn by turn, the median, the least and the greatest; "
        "and of the best turns.",
        f"NVFlare: its defaults, {peer_he.TENSORS} tensors, each with its context, as bench peers calls them. "
        f"Engine seal: SEAL through TenSEAL. Engine ring: {comparing.arithmetic} arithmetic (see SECAGG_RING)."
        + ("" if comparing.before is None else f" Before: {comparing.before}, in a process of its own."),
        f"One-time keys: {kahe_calls.VALUES:,} values, {kahe_calls.CLIENTS} clients; times as long as encryption.",
    ]
    parts = [
        (
            one.peer,
            f"{1e-9 / one.seconds.median:.3g} GB/s ({1e-9 / one.seconds.least:.3g})"
            if one.peer == KEYSTREAM
            else f"{_both(one.seconds, 1e6)} µs",
            *(("", "", "") if one.peer == KEYSTREAM else _ratio(one)),
        )
        for one in comparing.timed
        if one.work == TRANSFORM
    ]
    ratios = ("times\nas long", "from – to", "best")
    return [
        Grid(f"{TRANSFORM.capitalize()}, and a keystream", ("side", "one polynomial", *ratios), parts),
        Grid(
            "CKKS and BFV on one core",
            ("work", "side", "µs\na ciphertext", "ns\na value", "bytes\na value", *ratios),
            rows,
            notes,
        ),
    ]


def _both(seconds: Spread, factor: float) -> str:
    return f"{_number(seconds.median * factor)} ({_number(seconds.least * factor)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(one: Timed) -> tuple[str, str, str]:
    if one.peer == RING:
        return "", "", ""
    return times(one.ratio.median), f"{times(one.ratio.least)} – {times(one.ratio.most)}", times(one.best)
