"""The name of a round's session, and the count of a client's uploads over one model."""

import hashlib
from pathlib import Path

import pytest

from mpc.keys import encode_parts
from secagg._rounds import UPLOADS_OF_A_MODEL, count_upload, model_of, session_name
from secagg.errors import ConfigError
from secagg.store import FileLedger, MemoryLedger

MODEL, REQUEST = hashlib.sha256(b"model").digest(), hashlib.sha256(b"request").digest()


def name(number: int, attempt: int, model: bytes = MODEL) -> bytes:
    return session_name("http", number, attempt, model=model, request=REQUEST)


def test_a_name_is_its_stack_its_numbers_and_two_digests() -> None:
    assert name(3, 1) == b"http/3/1/" + MODEL + REQUEST
    assert session_name("flower", 7, 3, 1, model=MODEL, request=REQUEST) == b"flower/7/3/1/" + MODEL + REQUEST
    assert model_of(name(3, 1)) == MODEL


@pytest.mark.parametrize("digests", [{"model": b"short", "request": REQUEST}, {"model": MODEL, "request": b""}])
def test_a_name_has_whole_digests(digests: dict[str, bytes]) -> None:
    with pytest.raises(ConfigError, match="expected the 32 bytes of a SHA-256 for each"):
        session_name("http", 1, 1, **digests)


def test_a_model_gets_two_uploads_whatever_the_numbers_say(tmp_path: Path) -> None:
    assert UPLOADS_OF_A_MODEL == 2
    with FileLedger(tmp_path / "ledger") as ledger:
        assert count_upload(ledger, "test", "c1", session=name(1, 1)) == 1
        assert count_upload(ledger, "test", "c1", session=name(9, 1)) == 2
    with FileLedger(tmp_path / "ledger") as ledger:  # a process that is started again
        with pytest.raises(ConfigError, match="upload 3 from one model; this client gives 2"):
            count_upload(ledger, "test", "c1", session=name(2, 1))
        assert [count_upload(ledger, "test", "c1", session=name(n, 1)) for n in (1, 9)] == [1, 2]  # the same again
        assert count_upload(ledger, "test", "c1", session=name(2, 1, bytes(32))) == 1  # another model
        assert count_upload(ledger, "test", "c2", session=name(2, 1)) == 1  # another client


def test_an_upload_is_claimed_under_the_entry_that_ledgers_in_use_already_hold() -> None:
    """Another entry would let a client that was upgraded give the same model two uploads more."""
    ledger = MemoryLedger()
    session = session_name("flower", 7, 3, 1, model=MODEL, request=REQUEST)
    count_upload(ledger, "secagg/v1/flower-upload", "c1", b"task", "7", session=session)
    entry = hashlib.sha256(encode_parts("secagg/v1/flower-upload", "c1", b"task", "7", MODEL, "1")).digest()
    assert ledger.claim(entry, bytes(32)) == hashlib.sha256(session).digest()
