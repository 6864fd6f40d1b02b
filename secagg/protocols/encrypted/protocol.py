"""Paillier, CKKS and BFV: clients encrypt, the server adds up ciphertexts, a decryptor opens one sum.

A client encrypts its encoded update, packed into slots (``digits``), and sends it once. The server adds
each vector of ciphertexts to one running sum as it arrives. At the end it sends the sum to the
*decryptor*, which holds the key and opens one sum a session. The server and the decryptor follow the
protocol and do not collude: a lying server can have one client's ciphertext opened as if it were a sum,
and the decryptor cannot detect it. Against a lying server, use masks or shares.

*Inputs are independent.* Anyone can compute with these ciphertexts. A client that sees the others'
ciphertexts before it sends its own could cancel all but one of them, and the opened sum would be that
one client's update. So every client first commits to its ciphertexts (``Commit``), and the server asks
for them when it accepts no more commitments. ``commit=False`` leaves that round out, and is weaker: see
:class:`Encrypted`.

The protocols are here, their parameters in ``parameters``, their messages in ``messages``, the roles in
``client``, ``decryptor`` and ``server``; the schemes themselves are in ``he``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from secagg._numbers import whole
from secagg.errors import ConfigError, choice, shown
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
Engine = Literal["ring", "seal"]


class EncryptedProtocol(Encrypted):
    """The parameters with the roles that run them: clients and the decryptor answer the server."""

    role_classes: ClassVar[Mapping[PartyRole, type[Member[Any]]]] = {
        PartyRole.CLIENT: EncryptedClient,
        PartyRole.DECRYPTOR: EncryptedDecryptor,
    }
    server: ClassVar[type[Server[Any]]] = EncryptedServer


@dataclass(frozen=True)
class Paillier(EncryptedProtocol):
    """Paillier's scheme (EUROCRYPT 1999), packed, with the encryption of Damgård, Jurik and Nielsen.

    ``bits`` of the modulus: 3072 gives 128-bit security, 2048 (the least) 112. ``textbook=True`` avoids
    the short-exponent assumption that :mod:`he.paillier` names, and is many times slower.

    ``key="session"``: the decryptor makes a key for every session, signs its public half and forgets it
    afterwards. ``key="run"`` is one key for all sessions (``secagg keygen --paillier``;
    ``task.decryptor("dec", key=...)``); the roster pins its digest. It saves the time to generate primes,
    and it is weaker: a client can upload ciphertexts that it recorded in an earlier session, so that an
    update is opened whose owner is not in the cohort. Noise (``dp``) is then sized for one honest update.

    Ideal functionality, if server and decryptor follow the protocol: they learn the sum over the
    survivors, at least ``min_survivors`` of them, and who the survivors are. At most c clients may
    collude with the server and depart from the protocol; then no sum holds fewer than
    ``min_survivors - c`` honest updates. Clients learn the cohort. An abort before Opening reveals
    nothing. A server that colludes with the decryptor, or lies to it, reads every update. Paillier is not
    post-quantum: a later quantum computer opens recorded ciphertexts.
    """

    bits: int = 3072
    textbook: bool = False
    key: Lifetime = "session"

    ID: ClassVar[int] = 5
    _name: ClassVar[str] = "Paillier"
    post_quantum: ClassVar[bool] = False
    _module: ClassVar[str] = "he.paillier"

    def __post_init__(self) -> None:
        super().__post_init__()
        bits = whole(self.bits)
        if bits is None or type(self.textbook) is not bool:
            raise ConfigError(
                f"got bits={shown(self.bits)} and textbook={shown(self.textbook)}; "
                "expected an integer, and True or False"
            )
        object.__setattr__(self, "bits", bits)
        object.__setattr__(self, "key", choice("key", self.key, ("session", "run")))

    @property
    def _weaker(self) -> list[str]:
        return [*(["run-key"] if self.pinned else []), *super()._weaker]

    @property
    def _packages(self) -> tuple[str, ...]:
        return ("gmpy2",)

    @property
    def pinned(self) -> bool:
        """Whether the roster pins the key: it does for a key of the run."""
        return self.key == "run"

    @property
    def _options(self) -> tuple[tuple[str, Any], ...]:
        return ("bits", self.bits), ("textbook", self.textbook)

    def key_pair(self, role: PartyRole, rng: Callable[[int], bytes]) -> tuple[bytes, bytes] | None:
        """The decryptor's private key of the run, and the digest of its public half; None for session keys."""
        if role is not PartyRole.DECRYPTOR or not self.pinned:
            return None
        self.check_packages()
        from he import paillier

        try:
            secret = paillier.Scheme(1, 2, bits=self.bits, textbook=self.textbook).generate(rng)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return secret.to_bytes(), pin(secret.public.to_bytes())

    @property
    def _broken_by(self) -> list[str]:
        """The decryptor, which holds the key, and a client that replays ciphertexts of a run key."""
        recorded = "the server and one client that uploads in one session what it recorded in another"
        return ["the server and the decryptor", *([recorded] if self.pinned else [])]

    @property
    def _key_lines(self) -> list[str]:
        if not self.pinned:
            return ["the decryptor makes a key for every session"]
        return ["one key for the whole run: ciphertexts recorded in one session can be opened in another"]


@dataclass(frozen=True)
class RingLWE(EncryptedProtocol):
    """CKKS and BFV: the same ring, and two ways to encode integers in it.

    ``engine="ring"``: the kernels of :mod:`he.ring` draw keys and encrypt. ``engine="seal"``: SEAL does, through
    TenSEAL, many times slower. SEAL's randomness follows from no seed. So a client or decryptor that was restored
    repeats itself only from a state saved after it encrypted, or made its key.
    """

    holder: Holder = "decryptor"
    engine: Engine = "ring"

    post_quantum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "holder", choice("holder", self.holder, ("decryptor", "clients")))
        object.__setattr__(self, "engine", choice("engine", self.engine, ("ring", "seal")))

    @property
    def name(self) -> str:
        """The scheme's name, what encrypts unless it is the default, and how it is weaker than the default."""
        return "/".join([self._name, *(["seal"] if self.engine == "seal" else []), *self._weaker])

    @property
    def _weaker(self) -> list[str]:
        return [*(["clients"] if self.shared_key else []), *super()._weaker]

    @property
    def _packages(self) -> tuple[str, ...]:
        return ("tenseal", "zstandard") if self.engine == "seal" else ()

    @property
    def pinned(self) -> bool:
        """Whether the roster pins the key: a shared one is; a decryptor's own is fresh every session."""
        return self.holder == "clients"

    @property
    def shared_key(self) -> bool:
        """Whether clients and decryptor hold one and the same key."""
        return self.holder == "clients"

    @property
    def _options(self) -> tuple[tuple[str, Any], ...]:
        return ("seeded", self.holder == "clients"), ("engine", self.engine)

    def key_pair(self, role: PartyRole, rng: Callable[[int], bytes]) -> tuple[bytes, bytes] | None:
        """The key that clients and decryptor share, and its digest."""
        if self.holder == "decryptor":
            return None
        key = rng(KEY_BYTES)
        return key, pin(key)

    def collusion(self, others: int, among: str) -> str:
        """If clients share the key, any one of them is enough; else ``others`` of ``among``, as for all schemes."""
        if self.holder == "clients":
            return "the server and any one client, because every client holds the key"
        return super().collusion(others, among)

    @property
    def _broken_by(self) -> list[str]:
        """The decryptor, and a client that puts the key into the sum, if the decryptor did not check."""
        malformed = "one client with a malformed ciphertext, which is detected but which no proof excludes"
        return ["the server and the decryptor", f"the server and {malformed}"]


@dataclass(frozen=True)
class CKKS(RingLWE):
    """CKKS (Cheon, Kim, Kim and Song, ASIACRYPT 2017), opened only as exact integers.

    Clients encrypt the encoding's integers, and the decryptor rounds. So the sum is exact, and the noise,
    which would reveal the key (Li and Micciancio, EUROCRYPT 2021), never leaves the decryptor.

    ``holder="decryptor"``: a decryptor apart from the server makes a key pair for every session, and
    clients encrypt under its public half. ``holder="clients"`` is the trust model of NVFlare's default:
    one secret key on every client, half the bytes, and *one client that colludes with the server sees
    every update*. The key of the run is 32 bytes that all holders receive out of band
    (``secagg keygen --shared-he``; ``key=`` of every role). The keys of its sessions are derived from it.
    One of its holders is also enrolled as the decryptor, and opens sums.

    ``engine="ring"``: this library's kernels draw keys and encrypt. ``engine="seal"``: SEAL does, through
    TenSEAL. See :class:`RingLWE`.

    Ideal functionality: that of :class:`Paillier` with ``key="session"``, with one exception. A client that
    departs from the protocol and colludes with the server can try to put the session's key into the sum
    with a malformed ciphertext. The decryptor opens nothing unless every slot is a possible sum, which
    detects the attempt. No proof excludes it; it can reveal the key of one session only.
    """

    ID: ClassVar[int] = 6
    _name: ClassVar[str] = "CKKS"
    _module: ClassVar[str] = "he.ckks"


@dataclass(frozen=True)
class BFV(RingLWE):
    """BFV (Fan and Vercauteren, 2012): exact integers, in fewer bytes than CKKS.

    Choose it for sums among the homomorphic schemes. Trust models, engines and ideal functionality are those
    of :class:`CKKS`.
    """

    ID: ClassVar[int] = 7
    _name: ClassVar[str] = "BFV"
    _module: ClassVar[str] = "he.bfv"
