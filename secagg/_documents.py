"""Reads and writes the small JSON files of enrolment: strictly, and with a cap on their size."""

import json
import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from secagg._numbers import is_a
from secagg.errors import ConfigError, blaming, shown, words

T = TypeVar("T", bound="Document")

MAX_BYTES = 1 << 16  # of one document


class Document(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The fields of one kind of file. Byte strings are base64 in the file."""


def write_document(document: Document) -> str:
    """``document`` as JSON text that people can read."""
    return json.dumps(msgspec.to_builtins(document), indent=2) + "\n"


def read_document(text: str | bytes, kind: type[T], what: str) -> T:
    """The fields of ``text``; ``ConfigError`` that says ``what`` was expected for anything else."""
    text = str.__str__(text).encode(errors="surrogatepass") if is_a(text, str) else text
    if not is_a(text, bytes):
        raise ConfigError(f"got {shown(text)}; expected the text of {what}")
    if len(text) > MAX_BYTES:
        raise ConfigError(f"got {len(text):,} bytes; expected {what}, which has at most {MAX_BYTES:,}")
    try:
        fields = json.loads(text.decode(), object_pairs_hook=_no_duplicates)
        return msgspec.convert(fields, kind)
    except (RecursionError, ValueError, msgspec.MsgspecError) as error:
        if isinstance(error, ConfigError):
            raise
        detail = "it is not JSON" if isinstance(error, UnicodeError | json.JSONDecodeError) else words(error)[:200]
        raise ConfigError(f"got what can't be read as {what}: {detail}") from error


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ConfigError("got a file that has a field twice; expected each once")
    return dict(pairs)


def read_file(path: str | os.PathLike[str], what: str, most: int = MAX_BYTES) -> bytes:
    """The bytes of a file; ``ConfigError`` if it has more than ``most`` or can't be read."""
    with blaming(ConfigError, f"got {shown(path)} as the path of {what}"):
        where = Path(path)
    try:
        with where.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"got no file at {where}: {error.strerror}; expected {what}") from error
    except ValueError as error:
        raise ConfigError(f"got {shown(str(path))} as the path of {what}: {error}") from error
    if len(data) > most:
        raise ConfigError(f"got more than {most:,} bytes at {where}; expected {what}, which is smaller")
    return data
