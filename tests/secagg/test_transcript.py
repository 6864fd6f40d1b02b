"""The published transcript: ours to the byte, and right by an independent script."""

import copy
import json

import pytest

from tests.reference import secagg_transcript
from tests.secagg import transcript

PUBLISHED = json.loads(transcript.VECTOR.read_text(encoding="utf-8"))


def test_same_seeds_give_the_published_bytes() -> None:
    assert transcript.record() == PUBLISHED


def test_independent_script_agrees_and_finds_the_sum_of_the_survivors() -> None:
    assert PUBLISHED["survivors"] == ["c1", "c2", "c4", "c5", "c6"]
    columns = zip(*(PUBLISHED["encoded"][c] for c in PUBLISHED["survivors"]), strict=True)
    sums = [[sum(numbers) for numbers in zip(*segment, strict=True)] for segment in columns]
    assert secagg_transcript.verify(PUBLISHED) == sums


@pytest.mark.parametrize("sender", ["server", "c2"])
def test_control_any_changed_message_is_noticed(sender: str) -> None:
    for number, message in enumerate(PUBLISHED["messages"]):
        if message["from"] != sender:
            continue
        changed = copy.deepcopy(PUBLISHED)
        data = bytearray.fromhex(message["data"])
        data[-100] ^= 1
        changed["messages"][number]["data"] = data.hex()
        with pytest.raises(Exception):
            secagg_transcript.verify(changed)
