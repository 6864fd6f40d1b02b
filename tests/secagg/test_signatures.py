"""Many signatures at once: split over an executor, and each checked all the same."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg.signatures import _IN_TASK, first_invalid
from secagg.wire import SIGNATURE_LABEL

COUNT = 2 * _IN_TASK + 5  # three tasks, the last one a short one


def signed_by(seed: int) -> tuple[bytes, bytes, bytes]:
    key, digest = Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big")), seed.to_bytes(32, "little")
    return key.public_key().public_bytes_raw(), key.sign(SIGNATURE_LABEL + digest), digest


GOOD = [signed_by(seed) for seed in range(1, COUNT + 1)]


def test_one_wrong_signature_is_found_at_each_place():
    assert first_invalid(GOOD, None) is None
    for place, (key, signature, digest) in enumerate(GOOD):
        others = GOOD[place - 1]
        for wrong in (
            (key, bytes([signature[0] ^ 1]) + signature[1:], digest),
            (key, signature, others[2]),
            (others[0], signature, digest),
            (key, signature[:-1], digest),
            (bytes(31), signature, digest),
        ):
            assert first_invalid([*GOOD[:place], wrong, *GOOD[place + 1 :]], None) == place


@pytest.mark.parametrize("count", [1, _IN_TASK, COUNT])
def test_of_several_wrong_signatures_the_first_is_named_whatever_the_executor(count):
    key, signature, digest = GOOD[0]
    wrong = key, signature, digest[::-1]
    cases = [[], [0], [count - 1], [count // 2, count - 1], list(range(count))]
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(4) as four, ProcessPoolExecutor(1) as process:
        for places in cases:
            signed = [wrong if place in places else good for place, good in enumerate(GOOD[:count])]
            for executor in (None, one, four, process):
                assert first_invalid(signed, executor) == min(places, default=None)


def test_a_worker_of_the_executor_may_check_signatures_on_the_same_executor():
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(first_invalid, GOOD, executor).result(timeout=60) is None
