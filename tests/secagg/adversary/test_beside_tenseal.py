"""Sums of which one end runs on TenSEAL: what is published, and what its side may send.

TenSEAL's parser takes vectors that it then can't add or decrypt. This package reads TenSEAL's bytes itself.
"""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from he import bfv
from he.errors import CiphertextError
from he.ring import field
from tests.he.polynomials import coefficients, values
from tests.secagg.adversary.registry import attack

ADD = """
import sys, tenseal
context = tenseal.context_from(sys.stdin.buffer.read(int(sys.argv[1])), n_threads=1)
honest = tenseal.bfv_vector_from(context, sys.stdin.buffer.read(int(sys.argv[2])))
lying = tenseal.bfv_vector_from(context, sys.stdin.buffer.read())
print("taken", flush=True)
honest.add_(lying)
"""


@attack(
    title="Lying counts: a client's TenSEAL vector states as many values as all others, and holds no ciphertext",
    attacker="a client that wants to spoil the session",
    defence=(
        "this package reads the bytes: a vector holds one full count for each ciphertext, and as many "
        "ciphertexts as the length demands (`he._tenseal_vectors._ciphertexts`)"
    ),
    control="with TenSEAL on the server: it takes the vector, and the process dies when it is added",
    source="measured on TenSEAL 0.3.18",
)
class TestLyingCounts:
    scheme = bfv.Scheme(65534, 256)

    def messages(self) -> tuple[bytes, bytes, bytes]:
        """A context, an honest vector and a lying one."""
        key = self.scheme.generate()
        honest = self.scheme.to_tenseal(key.encrypt(np.arange(9)), 9)
        lying = honest[: 2 + honest[1]]  # the counts alone
        return key.to_tenseal(), honest, lying

    def test_refused(self) -> None:
        _, honest, lying = self.messages()
        adder = self.scheme.adder(9)
        adder.fold_tenseal(honest)
        before = adder.to_bytes()
        with pytest.raises(CiphertextError, match="fewer or more than 1 ciphertexts"):
            adder.fold_tenseal(lying)
        assert adder.to_bytes() == before

    def test_control_succeeds(self) -> None:
        pytest.importorskip("tenseal", reason="needs TenSEAL: pip install 'secagg[he]'")
        context, honest, lying = self.messages()
        run = subprocess.run(
            [sys.executable, "-c", ADD, str(len(context)), str(len(honest))],
            input=context + honest + lying,
            capture_output=True,
        )
        assert run.stdout == b"taken\n"
        assert run.returncode < 0  # by a signal


@attack(
    title=(
        "Two contexts of one key: the key's holder publishes the context that TenSEAL made, and later the one "
        "that this package makes of the same secret"
    ),
    attacker="anyone who sees both contexts",
    defence=(
        "a context of several primes has a public key with an error of its own, which follows from the secret "
        "(`he._tenseal._public_rows`)"
    ),
    control=(
        "with a public key that keeps TenSEAL's error, taken modulo the prime that contexts set apart: the "
        "difference of the two keys is (a - a') s, and so the secret key"
    ),
    source="own",
)
class TestTwoContexts:
    scheme = bfv.Scheme(2**24 - 2, 4096)

    def contexts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
        """Both public keys modulo the last prime, (b, a) each, the secret, and the field of that prime."""
        pytest.importorskip("tenseal", reason="needs TenSEAL: pip install 'secagg[he]'")
        from he import _tenseal
        from tests.he.test_tenseal import made_by_tenseal, public_rows

        made = made_by_tenseal(self.scheme)
        key = self.scheme.secret_from_tenseal(made.serialize(save_secret_key=True))
        theirs = public_rows(self.scheme, made.serialize(save_secret_key=False))
        ours = public_rows(self.scheme, key.to_tenseal())
        last = field(self.scheme.slots, _tenseal.chain_of(self.scheme).primes[-1])
        return theirs[[2, 5]].astype(np.int64), ours[[2, 5]].astype(np.int64), key._secret, last

    def recovered(self, theirs: np.ndarray, ours: np.ndarray, secret: np.ndarray, last: Any) -> np.ndarray:
        """(b - b') / (a' - a). Where that is 0 / 0, a handful of values, it is helped out."""
        (b, a), (other_b, other_a) = theirs, ours
        differences = (other_a - a) % last.prime
        inverses = np.array([pow(d, -1, last.prime) if d else 0 for d in differences.tolist()])
        quotients = (b - other_b) % last.prime * inverses % last.prime
        missing = differences == 0
        assert missing.sum() < 4
        quotients[missing] = values(last, secret.astype(np.int64) % last.prime)[missing]
        small = coefficients(last, quotients.astype(np.uint64)).astype(np.int64)
        return small - last.prime * (small > last.prime // 2)

    def test_refused(self) -> None:
        theirs, ours, secret, last = self.contexts()
        assert np.mean(np.abs(self.recovered(theirs, ours, secret, last)) <= 1) < 0.01

    def test_control_succeeds(self) -> None:
        theirs, ours, secret, last = self.contexts()
        at = values(last, secret.astype(np.int64) % last.prime).astype(np.int64)
        error = (theirs[0] + theirs[1] * at) % last.prime
        ours[0] = (error - ours[1] * at) % last.prime
        assert (self.recovered(theirs, ours, secret, last) == secret).all()
