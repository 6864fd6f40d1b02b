"""Save accountants and ledgers as bytes: a SHA-256, then JSON.

The hash reveals accidents only: anyone who can write these bytes can lower what was spent.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from dp.errors import DPError

MAX_BYTES = 1 << 22


def encode_state(state: Mapping[str, Any]) -> bytes:
    """``state`` as canonical JSON, after the SHA-256 of that JSON."""
    body = json.dumps(state, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode_state(data: bytes) -> object:
    """The state in bytes of :func:`encode_state`; :class:`DPError` for any other bytes."""
    if not isinstance(data, bytes) or len(data) > MAX_BYTES:
        raise DPError(f"the state is not bytes, or has more than {MAX_BYTES} of them")
    digest, _, body = data.partition(b"\n")
    if digest != hashlib.sha256(body).hexdigest().encode():
        raise DPError("the SHA-256 of the state doesn't match: it was cut short or changed")
    try:
        state: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DPError("the state is not JSON") from error
    return state


def fields_of(state: object, label: str, names: set[str]) -> Mapping[str, Any]:
    """``state``; :class:`DPError` unless its format is ``label`` and its fields are exactly ``names``."""
    if not isinstance(state, Mapping) or state.get("format") != label or set(state) != names | {"format"}:
        raise DPError(
            f"the state is not of the format {label!r} with exactly the fields {', '.join(sorted(names))}"
        )
    return state
