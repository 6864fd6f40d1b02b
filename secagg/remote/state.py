"""What a party keeps on its disk besides its roles: keys, tokens, the offer that it accepted, the model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

import msgspec

from mpc.keys import encode_parts
from secagg._private_files import warn_if_shared
from secagg._rows import sync_folder
from secagg.api.documents import Document, Joined, Offer, read_document
from secagg.errors import ConfigError
from secagg.folder import PartyFolder, check_ledger
from secagg.identity import SHARED_FILE, PartyRole, load_he_key, load_identity, load_sealing_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from secagg.kit import Kit
    from secagg.remote.settings import Settings
    from secagg.store import FileLedger

_LONGEST_TOKEN = 1024
_OFFER, _JOINED, _TOKEN = "offer.json", "joined.json", "token"


class State:
    """A party's folder (mode 0700), which is locked while this object is open: a second process is refused.

    It has ``ledger`` and ``sessions`` (:class:`secagg.PartyFolder`), ``identity.pem`` or the files that
    ``secagg keygen`` writes, ``offer.json``, the model, and ``joined.json`` or ``token`` where parties have no
    identities.
    """

    def __init__(self, path: str | os.PathLike[str], kit: Kit, settings: Settings) -> None:
        self._path, self._kit, self._settings = Path(path).expanduser(), kit, settings
        check_ledger(self._path, _OFFER, _JOINED, "model-*")
        self.folder = PartyFolder(path)
        try:
            self.identity = self._identity() if kit.auth == "roster" else None
            self.key = self._key()
            self.token = self._token() if kit.auth == "tokens" else ""
            self.joined = self._document(_JOINED, Joined) if kit.auth == "open" else None
        except BaseException:
            self.close()
            raise

    @property
    def ledger(self) -> FileLedger:
        """The party's ledger."""
        return self.folder.ledger

    def close(self) -> None:
        """Release the folder."""
        self.folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _identity(self) -> Ed25519PrivateKey:
        identity = self._settings.identity
        if identity is not None and not isinstance(identity, str | os.PathLike):
            return identity
        if identity is not None:
            return load_identity(identity)
        named = self._path / "identity.pem"
        return load_identity(named if named.exists() else self._path / f"{self._kit.party}.pem")

    def _key(self) -> bytes | None:
        """The other private key that this party's role has, if it has one."""
        key = self._settings.key
        if isinstance(key, bytes):
            return key
        party = self._kit.party
        if key is not None:
            return load_sealing_key(key) if self._kit.role is PartyRole.AGGREGATOR else load_he_key(key)
        sealing, own, shared = (
            self._path / name for name in (f"{party}.sealing.json", f"{party}.he.json", SHARED_FILE)
        )
        if sealing.exists():
            return load_sealing_key(sealing)
        return next((load_he_key(path) for path in (own, shared) if path.exists()), None)

    # Tokens, where parties have no identities

    def _token(self) -> str:
        path = Path(self._settings.token or self._path / _TOKEN)
        try:
            text = path.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"got no join token at {path}; ask the operator for one") from error
        try:
            check_token(text)
        except ConfigError as error:
            raise ConfigError(f"{error} (in {path})") from error
        warn_if_shared(path)
        return text

    def write_joined(self, joined: Joined) -> None:
        """Keep the id and the token."""
        self._write(_JOINED, msgspec.json.encode(joined))

    # The accepted offer

    def read_offer(self) -> Offer | None:
        """The offer that was accepted and whose session is not over, if there is one."""
        return self._document(_OFFER, Offer, Offer.settings)

    def write_offer(self, offer: Offer) -> None:
        """Keep an offer before it is accepted."""
        self._write(_OFFER, msgspec.json.encode(offer))

    def forget_offer(self) -> None:
        """The session of the accepted offer is over."""
        (self._path / _OFFER).unlink(missing_ok=True)

    def note_over(self, key: str) -> None:
        """Note durably that the session at the address ``key`` is over for this party."""
        self.ledger.claim(self._over(key), bytes(32))

    def is_over(self, key: str) -> bool:
        """Whether that was noted."""
        return self._over(key) in self.ledger

    def _over(self, key: str) -> bytes:
        return hashlib.sha256(encode_parts("secagg/v1/http-session-over", self._kit.task, key)).digest()

    # The model

    def model_path(self, sha256: str) -> Path:
        """Where a model is, once it was downloaded and its digest was checked."""
        return self._path / f"model-{sha256}"

    def open_part(self, sha256: str) -> BinaryIO:
        """The file of a model that is not complete yet, to append to. Files of other models are deleted."""
        for path in self._path.glob("model-*"):
            if path.name not in (f"model-{sha256}", f"model-{sha256}.part"):
                path.unlink(missing_ok=True)
        return os.fdopen(
            os.open(self._path / f"model-{sha256}.part", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b"
        )

    def keep_part(self, sha256: str) -> None:
        """The file is complete, and its digest is right."""
        (self._path / f"model-{sha256}.part").replace(self.model_path(sha256))
        sync_folder(self._path)

    def read_model(self, sha256: str) -> bytearray:
        """The bytes of a model that was downloaded, in memory that may be written to.

        ``FileNotFoundError`` if it is not here. ``ConfigError`` if the file changed since, which is deleted then:
        an update must be of the model that its session names.
        """
        path = self.model_path(sha256)
        data = bytearray(path.read_bytes())
        if hashlib.sha256(data).hexdigest() != sha256:
            path.unlink(missing_ok=True)
            raise ConfigError(
                f"got a model at {path} that changed after its download, so it was deleted; ask the offer for its "
                "model again, which downloads it"
            )
        return data

    def drop_part(self, sha256: str) -> None:
        """What was downloaded is not that model."""
        (self._path / f"model-{sha256}.part").unlink(missing_ok=True)

    def _document(
        self, name: str, kind: type[Document], check: Callable[[Document], object] = lambda read: None
    ) -> Document | None:
        """The document in a file of this folder; None without the file, ``ConfigError`` if it is damaged."""
        path = self._path / name
        try:
            document = read_document(path.read_bytes(), kind)
            check(document)
        except FileNotFoundError:
            return None
        except ConfigError as error:
            raise ConfigError(
                f"{error} (in {path}, which is damaged; if it is deleted, its session is left out)"
            ) from error
        return document

    def _write(self, name: str, data: bytes) -> None:
        fresh = self._path / f"{name}.new"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path / name)
        sync_folder(self._path)


def check_token(text: str) -> str:
    """``text`` if it can stand in a header; ``ConfigError`` otherwise."""
    if not 0 < len(text) <= _LONGEST_TOKEN or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError("got no join token; expected one line of ASCII text")
    return text


def hash_file(file: BinaryIO) -> bytes:
    """SHA-256 of an open file, from its beginning."""
    digest = hashlib.sha256()
    file.seek(0)
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.digest()
