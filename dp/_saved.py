"""Accounts as bytes: JSON under a SHA-256 against accident. Whoever can write them can lower them."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dp.errors import DPError

MAX_BYTES = 1 << 22


def encode_state(state: Mapping[str, Any]) -> bytes:
    """``state`` as JSON in its one form, after its SHA-256."""
    body = json.dumps(state, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode_state(data: bytes) -> object:
    """What :func:`encode_state` was given; :class:`DPError` for any other bytes."""
    if not isinstance(data, bytes) or len(data) > MAX_BYTES:
        raise DPError(f"got a state that is no bytes, or more than {MAX_BYTES} of them")
    digest, _, body = data.partition(b"\n")
    if digest != hashlib.sha256(body).hexdigest().encode():
        raise DPError("got a state whose SHA-256 doesn't match: it was cut short or changed")
    try:
        found: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DPError("got a state that is no JSON") from error
    return found


def fields_of(state: object, label: str, names: set[str]) -> Mapping[str, Any]:
    """``state``; :class:`DPError` unless it is of the format ``label`` with exactly the fields ``names``."""
    if not isinstance(state, Mapping) or state.get("format") != label or set(state) != names | {"format"}:
        raise DPError(f"got a state that is not of the format {label!r} with exactly its fields")
    return state
