"""The table of problems, from the server that raises one to the client that reads it."""

import pickle

import pytest
from hypothesis import given, strategies as st

from secagg.api.problems import LABEL, MOST_BYTES, MOST_SECONDS, Kind, Problem, table
from secagg.errors import FaultKind, SecAggError


@pytest.mark.parametrize("kind", Kind)
def test_a_client_reads_the_problem_that_the_server_raised(kind: Kind) -> None:
    fault = FaultKind.DUPLICATE if kind is Kind.MALFORMED_MESSAGE else None
    raised = Problem(kind, "at most 9 bytes", fault=fault, retry_after=2.1)
    read = Problem.of(kind.status, raised.headers(), raised.body())
    assert (read.kind, read.status, read.detail, read.fault) == (kind, kind.status, "at most 9 bytes", fault)
    assert read.retry_after == 3
    assert read.again == kind.again
    assert str(read) == str(raised)
    assert kind.word in str(read)
    copied = pickle.loads(pickle.dumps(read))
    assert vars(copied) == vars(read)


def test_names_and_statuses_are_distinct_and_stable() -> None:
    assert len({kind.value for kind in Kind}) == len(Kind)
    assert Kind.ROUND_CLOSED.type == "urn:secagg:problem:round-closed"
    assert all(400 <= kind.status < 600 for kind in Kind)
    assert issubclass(Problem, SecAggError)


def test_only_temporary_problems_may_be_sent_again() -> None:
    """What was refused for good (401, 403, 409, 410, 413, 422) is never repeated by a client."""
    assert {kind.status for kind in Kind if kind.again} == {400, 408, 429, 500, 503}
    assert [kind for kind in Kind if kind.again and kind.status == 400] == [Kind.DIGEST_MISMATCH]


def test_the_documentation_has_every_kind() -> None:
    rows = table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == [kind.word for kind in Kind]
    assert all(row.count("|") == 6 for row in rows)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (413, b"<html>413 Request Entity Too Large</html>", Kind.TOO_LARGE),  # a proxy's page
        (502, b"", Kind.OVERLOADED),
        (599, b"", Kind.INTERNAL_ERROR),
        (418, b"{}", Kind.BAD_REQUEST),
        (404, Problem(Kind.ROUND_CLOSED).body(), Kind.NOT_FOUND),  # the type of another status
        (410, Problem(Kind.ROUND_CLOSED).body() + b" " * MOST_BYTES, Kind.BAD_REQUEST),
        (410, Problem(Kind.ROUND_CLOSED).body().replace(b"round-closed", b"else"), Kind.BAD_REQUEST),
    ],
)
def test_a_body_that_is_not_ours_counts_for_nothing(status: int, body: bytes, kind: Kind) -> None:
    read = Problem.of(status, {}, body)
    assert (read.kind, read.status, read.detail) == (kind, status, "")


@given(
    st.integers(400, 599),
    st.text(),
    st.one_of(
        st.binary(max_size=100),
        st.builds(
            lambda word, fault: b'{"type":"%s%s","status":422,"fault":"%s"}' % (LABEL.encode(), word, fault),
            st.binary(max_size=20),
            st.binary(max_size=20),
        ),
        st.just(b"[" * MOST_BYTES),
    ),
)
def test_no_bytes_of_a_server_raise(status: int, retry_after: str, body: bytes) -> None:
    read = Problem.of(status, {"retry-after": retry_after}, body)
    assert read.retry_after is None or 0 <= read.retry_after <= MOST_SECONDS


def test_a_hostile_detail_is_short_and_printable() -> None:
    body = (
        Problem(Kind.FORBIDDEN)
        .body()
        .replace(b'"status"', b'"detail":"\\u001b[31m\\nroot' + b"x" * 999 + b'","status"')
    )
    read = Problem.of(403, {}, body)
    assert read.detail.startswith(" [31m root")
    assert len(read.detail) == 200
