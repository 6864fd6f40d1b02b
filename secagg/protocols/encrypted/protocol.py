"""Paillier, CKKS and BFV: clients encrypt, the server adds up ciphertexts, a decryptor opens one sum.

A client encrypts its encoded update, packed into slots (``digits``), and sends it once. The server folds each
ciphertext into one running sum as it arrives and hands the sum to the *decryptor*, who holds the key and opens
it once a session. The server and the decryptor follow the protocol and do not collude: a server that
lies can have one client's ciphertext opened as if it were a sum, and no check of the decryptor's can tell. Who
needs more takes masks or shares.

*Inputs are independent.* Anyone can compute with these ciphertexts. A client that sees the others' before it sends
its own could send the inverse of all but one, and the opened sum would be that one client's update. Therefore
every client first commits to its ciphertexts (``Commit``), and the server asks for them when no more
commitments are taken. ``commit=False`` leaves that round out, and is weaker: see :class:`Encrypted`.

The protocols are here, what they share in ``parameters``, their messages in ``messages``, the
parties in ``client``, ``decryptor`` and ``server``; the schemes themselves are in ``he``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from secagg._numbers import whole
from secagg.errors import ConfigError, shown
from secagg.identity import PartyRole
from secagg.protocols.encrypted.client import EncryptedClient
from secagg.protocols.encrypted.decryptor import EncryptedDecryptor
from secagg.protocols.encrypted.messages import KEY_BYTES, pin
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.protocols.encrypted.server import EncryptedServer
from secagg.roles.member import Member
from secagg.roles.server import Server

Holder = Literal["decryptor", "clients"]
Lifetime = Literal["session", "run"]


class EncryptedProtocol(Encrypted):
    """The parameters with the roles that run them: clients and the decryptor answer the server."""

    members: ClassVar[Mapping[PartyRole, type[Member[Any]]]] = {
        PartyRole.CLIENT: EncryptedClient,
        PartyRole.DECRYPTOR: EncryptedDecryptor,
    }
    server: ClassVar[type[Server[Any]]] = EncryptedServer


@dataclass(frozen=True)
class Paillier(EncryptedProtocol):
    """Paillier's scheme (EUROCRYPT 1999), packed, with the encryption of Damgård, Jurik and Nielsen.

    ``bits`` of the modulus: 3072 is 128-bit security, 2048 (the least) 112. ``textbook=True`` does without
    the short-exponent assumption that :mod:`he.paillier` names, and is many times slower.

    ``key="session"``: the decryptor makes a key for every session, signs its public half and forgets it afterwards.
    ``key="run"`` is one key for all sessions (``secagg keygen --paillier``; ``task.decryptor("dec", key=...)``),
    whose digest the roster pins. It saves the time to find the primes, and it is weaker: a client can upload
    what it recorded in an earlier session, so that an update is opened whose owner is not in the cohort. Noise
    (``dp``) is then made for one honest update.

    Ideal functionality, where server and decryptor follow the protocol: they learn the sum over the
    survivors, at least ``min_survivors`` of them, and who they are; with at most c clients that collude with the
    server, and may depart from the protocol, no sum holds fewer than ``min_survivors - c`` honest updates.
    Clients learn the cohort. An abort reveals nothing before Opening. A server that colludes with the decryptor, or
    lies to it, reads every update. Not post-quantum: recorded ciphertexts open to a later quantum computer.
    """

    bits: int = 3072
    textbook: bool = False
    key: Lifetime = "session"

    ID: ClassVar[int] = 5
    _name: ClassVar[str] = "Paillier"
    post_quantum: ClassVar[bool] = False
    _module: ClassVar[str] = "he.paillier"
    _packages: ClassVar[tuple[str, ...]] = ("gmpy2",)

    def __post_init__(self) -> None:
        super().__post_init__()
        bits = whole(self.bits)
        if bits is None or type(self.textbook) is not bool:
            raise ConfigError(
                f"got bits={shown(self.bits)} and textbook={shown(self.textbook)}; "
                "expected an integer, and True or False"
            )
        object.__setattr__(self, "bits", bits)
        if not isinstance(self.key, str) or self.key not in ("session", "run"):
            raise ConfigError(f"got key={shown(self.key)}; expected 'session' or 'run'")

    @property
    def _weaker(self) -> list[str]:
        return [*(["run-key"] if self.pinned else []), *super()._weaker]

    @property
    def pinned(self) -> bool:
        """A key of the run is."""
        return self.key == "run"

    @property
    def _options(self) -> tuple[tuple[str, Any], ...]:
        return ("bits", self.bits), ("textbook", self.textbook)

    def key_pair(self, role: PartyRole, rng: Callable[[int], bytes]) -> tuple[bytes, bytes] | None:
        """The decryptor's private key of the run, and the digest of its public one; None for session keys."""
        if role is not PartyRole.DECRYPTOR or not self.pinned:
            return None
        from he import paillier

        try:
            secret = paillier.Scheme(1, 2, bits=self.bits, textbook=self.textbook).generate(rng)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return secret.to_bytes(), pin(secret.public.to_bytes())

    @property
    def _broken_by(self) -> list[str]:
        """The decryptor holds the key."""
        recorded = "the server and one client that uploads in one session what it recorded in another"
        return ["the server and the decryptor", *([recorded] if self.pinned else [])]

    @property
    def _key_lines(self) -> list[str]:
        if not self.pinned:
            return ["the decryptor makes a key for every session"]
        return ["one key for the whole run: a ciphertext that was recorded in one session opens in another"]


@dataclass(frozen=True)
class RingLWE(EncryptedProtocol):
    """CKKS and BFV: one ring, two ways to write integers into it."""

    holder: Holder = "decryptor"

    _packages: ClassVar[tuple[str, ...]] = ("tenseal", "zstandard")
    post_quantum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.holder not in ("decryptor", "clients"):
            raise ConfigError(f"got holder={self.holder!r}; expected 'decryptor' or 'clients'")

    @property
    def _weaker(self) -> list[str]:
        return [*(["clients"] if self.shared_key else []), *super()._weaker]

    @property
    def pinned(self) -> bool:
        """A key that clients share is given out once; a decryptor's own is fresh every session."""
        return self.holder == "clients"

    @property
    def shared_key(self) -> bool:
        """Whether clients and decryptor hold one and the same key."""
        return self.holder == "clients"

    @property
    def _options(self) -> tuple[tuple[str, Any], ...]:
        return (("seeded", self.holder == "clients"),)

    def key_pair(self, role: PartyRole, rng: Callable[[int], bytes]) -> tuple[bytes, bytes] | None:
        """The key that clients and decryptor share, and its digest."""
        if self.holder == "decryptor":
            return None
        key = rng(KEY_BYTES)
        return key, pin(key)

    def collusion(self, others: int, among: str) -> str:
        """Where clients share the key, any one of them is enough."""
        if self.holder == "clients":
            return "the server and any one client, for all hold the key"
        return super().collusion(others, among)

    @property
    def _broken_by(self) -> list[str]:
        """The decryptor; and a client that smuggles the key into the sum, if nobody looked."""
        malformed = "one client with a malformed ciphertext, which is detected but which no proof excludes"
        return ["the server and the decryptor", f"the server and {malformed}"]


@dataclass(frozen=True)
class CKKS(RingLWE):
    """CKKS (Cheon, Kim, Kim and Song, ASIACRYPT 2017) on TenSEAL, opened only as exact integers.

    What is encrypted is the encoding's integers, and the decryptor rounds: the sum is exact, and none of the noise
    leaves that would tell of the key (Li and Micciancio, EUROCRYPT 2021). ``holder="decryptor"``: a decryptor apart
    from the server makes a key pair for every session, and clients encrypt under its public half.
    ``holder="clients"`` is the trust model of NVFlare's default: one secret key on every client, half the
    bytes, and *one client that colludes with the server sees every update*. The key of the run is 32 bytes
    given out of band (``secagg keygen --shared-he``; ``key=`` of every role); the keys of its sessions are
    derived from it. One of its holders is enrolled as the decryptor too, and opens.

    Ideal functionality: as :class:`Paillier`'s with ``key="session"``, but for one thing. A client that departs
    from the protocol and colludes with the server can try to smuggle the session's key into the sum with a
    malformed ciphertext. The decryptor opens nothing unless every slot is a possible sum, which detects it; no
    proof excludes it, and a key of one session bounds it.
    """

    ID: ClassVar[int] = 6
    _name: ClassVar[str] = "CKKS"
    _module: ClassVar[str] = "he.ckks"


@dataclass(frozen=True)
class BFV(RingLWE):
    """BFV (Fan and Vercauteren, 2012) on TenSEAL's SEAL: exact integers, at fewer bytes than CKKS.

    The homomorphic scheme to take for sums. Trust models and ideal functionality are :class:`CKKS`'s.
    """

    ID: ClassVar[int] = 7
    _name: ClassVar[str] = "BFV"
    _module: ClassVar[str] = "he.bfv"
