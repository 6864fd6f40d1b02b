"""The published transcripts: ours to the byte, and right by independent scripts."""

import copy
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mpc import _aes, masks
from secagg import wire
from tests.reference import oneshot_transcript, paillier_transcript, secagg_transcript, shares_transcript
from tests.secagg import transcript
from tests.secagg.fuzz.mutate import take_apart
from tests.secagg.transcript import ONE_SHOT, PAILLIER, SCRIPTS, SECAGG, SECAGG_PLUS, SHARES, Script

SURVIVORS = {
    SECAGG.file: ["c1", "c2", "c4", "c5", "c6"],
    SECAGG_PLUS.file: ["c1", "c10", "c11", "c12", "c4", "c5", "c6", "c7", "c8", "c9"],
    SHARES.file: ["c1", "c2", "c5"],
    PAILLIER.file: ["c1", "c2", "c4"],
    ONE_SHOT.file: ["c1", "c2", "c4"],
}
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.file)


def verify(script: Script, published: dict[str, Any]) -> list[list[int]]:
    scripts = {
        SHARES.file: shares_transcript,
        PAILLIER.file: paillier_transcript,
        ONE_SHOT.file: oneshot_transcript,
    }
    return scripts.get(script.file, secagg_transcript).verify(published)


def is_noticed(script: Script, published: dict[str, Any]) -> bool:
    try:
        verify(script, published)
    except Exception:  # whatever the script stumbles over
        return True
    return False


@pytest.mark.parametrize("script", [SECAGG_PLUS, PAILLIER], ids=lambda script: script.file)
def test_same_seeds_give_the_published_bytes(script: Script) -> None:
    assert transcript.record(script) == script.published


@pytest.mark.parametrize("bits", [0, *(bits for bits in _aes.WIDTHS if bits <= _aes.widest())])
def test_every_mask_kernel_gives_the_published_bytes(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "width", lambda: bits)  # 0 is OpenSSL
    assert transcript.record(SECAGG) == SECAGG.published


@each_script
def test_who_hears_the_published_messages_says_the_published_ones(script: Script) -> None:
    """With AdditiveShares and OneShot too, where only what clients seal is different each time."""
    replayed = list(transcript.replay(script))
    sealed = {SHARES.file: 4, ONE_SHOT.file: 3}.get(script.file, 0)
    assert len(replayed) == len(script.published["messages"]) + 1 - sealed
    assert [ours for _, _, ours in replayed] == [published for _, published, _ in replayed]


@each_script
def test_independent_script_agrees_and_finds_the_sum_of_the_survivors(script: Script) -> None:
    published = script.published
    assert published["survivors"] == SURVIVORS[script.file]
    columns = zip(*(published["encoded"][c] for c in published["survivors"]), strict=True)
    sums = [[sum(numbers) for numbers in zip(*segment, strict=True)] for segment in columns]
    assert verify(script, published) == sums


@each_script
def test_control_any_changed_message_is_noticed(script: Script) -> None:
    """Under a trailer that doesn't fit any more, and under one that does."""
    identities = {
        party: Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key))
        for party, key in script.published["identities"].items()
    }
    messages = list(enumerate(script.published["messages"]))
    if script is ONE_SHOT:  # the last of each type: its script takes a second to find that all is well
        messages = list({take_apart(bytes.fromhex(m["data"])).kind: (number, m) for number, m in messages}.values())
    for number, message in messages:
        data = bytes.fromhex(message["data"])
        frame = take_apart(data)
        body = len(data) - (wire.SIGNATURE_BYTES if frame.sender else wire.CHECKSUM_BYTES) - 1
        flipped = data[:body] + bytes([data[body] ^ 1])
        resealed = take_apart(flipped + data[body + 1 :]).seal(identities.get(frame.sender.decode()))
        for changed in (flipped + data[body + 1 :], resealed):
            record = copy.copy(script.published)
            record["messages"] = list(record["messages"])
            record["messages"][number] = message | {"data": changed.hex()}
            assert is_noticed(script, record), f"message {number} of type {frame.kind}"
