"""Federated rounds: the name of each session, and a client's count of the uploads over one model.

An adapter for a training stack or a service opens one session for each attempt at a round. The names here bind a
session to all that the training gets: a server that sends clients different models or requests gets noise.
"""

import hashlib

from mpc.keys import encode_parts
from secagg.errors import ConfigError
from secagg.store import Ledger, ReadableLedger

UPLOADS_OF_A_MODEL = 2  # the most that a client sends, and so the most sessions over one model that a server opens

SECOND_UPLOAD = (
    "this is a second upload from one model: if both sessions end, the server can subtract the sums, and so see "
    "the updates of clients that are in only one of them"
)

_DIGEST_BYTES = 32


def session_name(stack: str, *numbers: int, model: bytes, request: bytes) -> bytes:
    """The name of a session: ``stack``, ``numbers``, the digest of the model, and that of all else that is sent.

    ``numbers`` are the round and the attempt, with the run before them where the task's digest does not name it.
    Server and client each compute the name, the client from the bytes that it got. ``ConfigError`` for digests that
    are not 32 bytes.
    """
    if len(model) != _DIGEST_BYTES or len(request) != _DIGEST_BYTES:
        raise ConfigError(
            f"got a model and a request as {len(model)} and {len(request)} bytes; expected the {_DIGEST_BYTES} "
            "bytes of a SHA-256 for each"
        )
    return b"/".join([stack.encode(), *(b"%d" % number for number in numbers), model + request])


def model_of(session: bytes) -> bytes:
    """The model's digest in a session's name."""
    return session[-2 * _DIGEST_BYTES : -_DIGEST_BYTES]


def count_upload(
    ledger: Ledger, label: str, *bound: bytes | str, session: bytes, most: int = UPLOADS_OF_A_MODEL
) -> int:
    """Claim an upload over the model of ``session``, durably; returns its number, from 1.

    ``label`` separates the counts of different stacks. ``bound`` is the rest of what is counted by: the client, the
    task's digest and, where many runs share a task, the run. The same session again gets the same number. Raises
    ``ConfigError`` after ``most``, because the sums of several sessions reveal the difference between them. For a
    number above 1, log :data:`SECOND_UPLOAD`.
    """
    value = hashlib.sha256(session).digest()
    for number in range(1, most + 1):
        if ledger.claim(_entry(label, bound, session, number), value) == value:
            return number
    raise ConfigError(f"got a request for upload {most + 1} from one model; this client gives {most}")


def may_upload(
    ledger: ReadableLedger, label: str, *bound: bytes | str, session: bytes, most: int = UPLOADS_OF_A_MODEL
) -> bool:
    """Whether :func:`count_upload` would return a number for ``session``; nothing is written unless one exists."""
    value = hashlib.sha256(session).digest()
    for number in range(1, most + 1):
        entry = _entry(label, bound, session, number)
        if entry not in ledger or ledger.claim(entry, value) == value:  # claims nothing: the entry is taken
            return True
    return False


def was_counted(
    ledger: ReadableLedger, label: str, *bound: bytes | str, session: bytes, most: int = UPLOADS_OF_A_MODEL
) -> bool:
    """Whether :func:`count_upload` has returned a number for ``session``; nothing is written."""
    value = hashlib.sha256(session).digest()
    entries = (_entry(label, bound, session, number) for number in range(1, most + 1))
    return any(entry in ledger and ledger.claim(entry, value) == value for entry in entries)


def _entry(label: str, bound: tuple[bytes | str, ...], session: bytes, number: int) -> bytes:
    return hashlib.sha256(encode_parts(label, *bound, model_of(session), str(number))).digest()
