"""The decoders of what a service and its clients send each other besides envelopes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from secagg.api import documents, models
from secagg.api.problems import Kind, Problem
from secagg.errors import FaultKind

DIGEST = "ab" * 32


def frames(data: bytes) -> None:
    """The frames of messages: what is read is written alike."""
    if documents.to_frames(documents.from_frames(data, 64)) != data:
        raise AssertionError("one batch of messages in two ways")


def frame_samples() -> list[bytes]:
    return [b"", documents.to_frames([(0, b"one"), (4, b""), (2**32 - 1, bytes(300))])]


def read_model(data: bytes) -> None:
    """A model of arrays and numbers."""
    models.read_model(data)


def model_samples() -> list[bytes]:
    return [models.write_model({"w": np.ones((2, 3), np.float32), "n": np.int64(7)}), models.write_model([1.5])]


def document(kind: type[msgspec.Struct]) -> Callable[[bytes], object]:
    return lambda data: documents.read_document(data, kind)


def document_samples() -> dict[type[msgspec.Struct], list[bytes]]:
    samples: list[msgspec.Struct] = [
        documents.Offer(1, 2, DIGEST, 100, '{"lr":0.1}', 60.0, 600.0),
        documents.Acceptance(True, "why"),
        documents.Result("done", True, False),
        documents.Accepted(DIGEST),
        documents.Joined("c1", "token"),
        documents.Rosters("{}", None),
    ]
    return {type(one): [msgspec.json.encode(one)] for one in samples}


def problem(data: bytes) -> None:
    """A problem: it never raises, and its status is the response's."""
    if Problem.of(422, {"retry-after": "3"}, data).status != 422:
        raise AssertionError("a problem with another status than its response")


def problem_samples() -> list[bytes]:
    return [Problem(Kind.MALFORMED_MESSAGE, "a detail", fault=FaultKind.INVALID).body()]
