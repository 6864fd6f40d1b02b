"""The status document: bounded, stable, and read by older versions."""

from __future__ import annotations

import json

import msgspec
import pytest

import secagg
from secagg.errors import FaultKind
from secagg.identity import check_party_id
from secagg.service.status import (
    MOST_FAULTS,
    FaultCount,
    context_text,
    count_faults,
    decode,
    encode,
    pseudonym,
)
from secagg.table import rounds
from tests.service.played import Played


def test_faults_are_counted_by_party_round_and_kind_with_the_newest_first() -> None:
    faults = [
        ("c1", "ShareKeys", "malformed", "first"),
        ("c2", "ShareKeys", "silent", ""),
        ("c1", "ShareKeys", "malformed", "second"),
    ]
    assert count_faults(faults) == (
        (
            FaultCount(party="c1", round="ShareKeys", kind="malformed", count=2, detail="second"),
            FaultCount(party="c2", round="ShareKeys", kind="silent"),
        ),
        0,
    )


def test_a_flood_of_faults_leaves_the_document_small() -> None:
    listed, more = count_faults(("x" * 5000, "ShareKeys", f"kind {i}", "y" * 5000) for i in range(1000))
    assert (len(listed), more) == (MOST_FAULTS, 1000 - MOST_FAULTS)
    assert len(msgspec.json.encode(listed)) < MOST_FAULTS * 1000


def test_a_document_of_a_later_version_is_read() -> None:
    status = Played().document()
    later = json.loads(encode(status))
    later["mood"] = "good"
    later["tasks"][0]["colour"] = 7
    assert decode(json.dumps(later).encode()) == status


def test_a_task_says_in_words_who_must_collude() -> None:
    played = Played()
    (about,) = played.document().tasks
    assert about.collusion == played.task.protocol.cost(played.task).collusion
    assert about.digest == played.task.digest.hex()
    assert about.collusion in played.task.describe()
    assert about.rounds == rounds(played.task.protocol)
    assert about.input_round == "MaskedInput"
    assert about.roster is not None


@pytest.mark.parametrize(
    ("context", "text"),
    [
        (b"run17", "run17"),
        (b"\xff\x00", "ff00"),
        (b"two\nlines", b"two\nlines".hex()),
        (b"", ""),
        ("Straße".encode(), "Straße"),
    ],
)
def test_a_context_is_shown_as_text_or_as_hexadecimal(context: bytes, text: str) -> None:
    assert context_text(context) == text


def test_a_pseudonym_depends_on_the_key_and_is_never_an_id() -> None:
    assert pseudonym("c1", b"k") == pseudonym("c1", b"k") != pseudonym("c1", b"other")
    with pytest.raises(secagg.ConfigError):
        check_party_id(pseudonym("c1", b"k"))


def test_the_faults_of_a_session_are_in_its_document() -> None:
    played = Played()
    played.misbehave("c2", b"no envelope")
    played.misbehave("c2", b"no envelope either")
    (session,) = played.document().sessions
    assert [(fault.party, fault.kind, fault.count) for fault in session.faults] == [("c2", FaultKind.MALFORMED, 2)]
