"""Paillier, CKKS and BFV: clients encrypt, the server adds up ciphertexts, a decryptor opens one sum.

A client encrypts its encoded update, packed into slots (``digits``), and sends it once. The server folds each
ciphertext into one running sum as it arrives and hands the sum to the *decryptor*, who holds the key and opens
it once a session. Everyone follows the protocol, and the server and the decryptor do not collude: a server that
lies can have one client's ciphertext opened as if it were a sum, and no check of the decryptor's can tell. Who
needs more takes masks or shares.

The protocols and their messages are here, the parties in ``_encrypted_parties`` and ``_encrypted_server``; the
schemes themselves are in ``he``.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mpc.keys import encode_parts
from secagg import wire
from secagg._numbers import whole
from secagg.errors import ConfigError, FaultKind, shown
from secagg.identity import Party, PartyRole, Roster
from secagg.protocols.base import (
    Cost,
    Phase,
    Proposal,
    Round,
    bitmap_bytes,
    check_corruption,
    check_floor,
    corrupt_count,
    largest_proposal,
)
from secagg.protocols.digits import Digits
from secagg.protocols.lanes import check_mask_bits, vectors_size
from secagg.wire import Reject

if TYPE_CHECKING:
    from secagg._machine import Member
    from secagg._server import Server
    from secagg.task import Task

KEY_BYTES = 32
HASH_BYTES = 32

Holder = Literal["decryptor", "clients"]


class SessionKey(wire.Message, frozen=True):
    """SessionKey, decryptor to clients: the public key to encrypt under, or the digest of the shared one."""

    TYPE: ClassVar[int] = 2
    key: bytes


class KeyedProposal(Proposal, frozen=True):
    """Input, server to clients: the proposal, with the decryptor's signed session key as received."""

    TYPE: ClassVar[int] = 3
    key: bytes


class Ciphertexts(wire.Message, frozen=True):
    """Input, client to server: its encrypted vector follows."""

    TYPE: ClassVar[int] = 4


class EncryptedSum(wire.Message, frozen=True):
    """Opening, server to decryptor: whose vectors are in the encrypted sum that follows."""

    TYPE: ClassVar[int] = 5
    survivors: bytes


class OpenedSum(wire.Message, frozen=True):
    """Opening, decryptor to server: the sum follows, in the clear."""

    TYPE: ClassVar[int] = 6


@dataclass(frozen=True)
class Encrypted(ABC):
    """What the homomorphic protocols have in common: all but the scheme and who holds its key."""

    corruption: float = 0.05
    threat_model: str = "semi-honest"

    others: ClassVar[Mapping[PartyRole, int]] = {PartyRole.DECRYPTOR: 1}
    phases: ClassVar[tuple[Phase, ...]] = (
        Phase(Round.SESSION_KEY, PartyRole.DECRYPTOR, Proposal, SessionKey),
        Phase(Round.INPUT, PartyRole.CLIENT, KeyedProposal, Ciphertexts, takes_input=True),
        Phase(Round.OPENING, PartyRole.DECRYPTOR, EncryptedSum, OpenedSum),
    )
    #: Rounds with messages that depend on the scheme's own randomness, which no seed governs.
    unseeded: ClassVar[tuple[str, ...]] = (Round.SESSION_KEY, Round.INPUT, Round.OPENING)

    def __post_init__(self) -> None:
        if self.threat_model != "semi-honest":
            raise ConfigError(
                f"got threat_model={self.threat_model!r}; {self.name} holds against a server that follows the "
                "protocol, expected 'semi-honest': a lying one can have a single client's ciphertext opened; "
                "SecAgg() withstands it"
            )
        object.__setattr__(self, "corruption", check_corruption(self.corruption))

    @property
    @abstractmethod
    def name(self) -> str:
        """The protocol's name."""

    @property
    def pinned(self) -> bool:
        """Whether the key outlives the session, so that the roster pins the digest of what is shown of it."""
        return True

    @property
    def shared_key(self) -> bool:
        """Whether clients and decryptor hold one and the same key."""
        return False

    @property
    def shows_terms(self) -> bool:
        """Whether a server that one client helps reads each term: that client has the key of all."""
        return self.shared_key

    def check_pinned(self, shown: bytes, decryptor: Party) -> None:
        """``Reject`` what is shown of a key that outlives the session, if it isn't what the roster pins."""
        if self.pinned and decryptor.encryption_key != (shown if self.shared_key else pin(shown)):
            raise Reject(FaultKind.INVALID, f"got another key of {decryptor.id} than the roster pins")

    def scheme(self, task: Task) -> Any:
        """The scheme of :mod:`he` that carries the task; ``ConfigError`` with the reason where none does."""
        digits = Digits(task)
        try:
            return _scheme(self._module, digits.bound, task.max_clients, self._options)
        except ValueError as error:  # he's own errors are
            raise ConfigError(f"{self.name} can't carry this task: {error}") from error

    _module: ClassVar[str]
    _packages: ClassVar[tuple[str, ...]]  # of the extra; looked for when a task is made, loaded when they are used

    @property
    @abstractmethod
    def _options(self) -> tuple[tuple[str, Any], ...]:
        """What the scheme is told beside bound and number of clients."""

    @property
    def members(self) -> Mapping[PartyRole, type[Member[Any]]]:
        """Clients and the decryptor answer the server."""
        from secagg.protocols._encrypted_parties import EncryptedClient, EncryptedDecryptor

        return {PartyRole.CLIENT: EncryptedClient, PartyRole.DECRYPTOR: EncryptedDecryptor}

    @property
    def server(self) -> type[Server[Any]]:
        """The server's class."""
        from secagg.protocols._encrypted_server import EncryptedServer

        return EncryptedServer

    @abstractmethod
    def key_pair(self, role: PartyRole, rng: Callable[[int], bytes]) -> tuple[bytes, bytes] | None:
        """The long-lived key that ``role`` holds, and what the roster pins of it; None where there is none."""

    def workers(self, executor: Executor | None) -> Executor | None:
        """What encryption runs on: the caller's executor, or what pays by default; None is this thread."""
        return executor

    def open_sum(self, secret: Any, total: bytes, length: int, count: int, executor: Executor | None) -> Any:
        """The sum of ``count`` vectors of ``length`` slots in ``total``; see ``open`` of the keys in :mod:`he`."""
        return secret.open(total, length, count)

    def corrupt(self, cohort: int) -> int:
        """c: how many clients of the cohort may collude with the server."""
        return corrupt_count(self.corruption, cohort)

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` if no parameters carry the sum, or if no cohort could be safe."""
        check_mask_bits(task)
        for package in self._packages:
            if importlib.util.find_spec(package) is None:
                reason = f"got no {package}, which {self.name} needs: pip install 'secagg[he]'"
                raise ConfigError(reason) from ModuleNotFoundError(reason, name=package)
        self.scheme(task)
        check_floor(task, self.corrupt(task.min_survivors))

    def validate_roster(self, task: Task, roster: Roster | None) -> None:
        """Raise ``ConfigError`` unless the roster lists exactly one decryptor, with what it has to pin."""
        if roster is None:
            raise ConfigError(
                f"got no roster; {self.name} needs one with clients and a decryptor: pass roster= and identity="
            )
        decryptors = roster.ids(PartyRole.DECRYPTOR)
        if len(decryptors) != 1:
            raise ConfigError(f"got a roster of {len(decryptors)} decryptors; {self.name} has one")
        pinned = roster[decryptors[0]].encryption_key
        if self.pinned and (pinned is None or len(pinned) != HASH_BYTES):
            found = "none" if pinned is None else f"{len(pinned)} bytes"
            raise ConfigError(
                f"got {found} for the key of {decryptors[0]} in the roster; expected its digest of {HASH_BYTES}: "
                f"write both with secagg keygen {decryptors[0]} --role decryptor"
            )

    def validate_cohort(self, task: Task, cohort: Sequence[str], roster: Roster | None) -> None:
        """Raise ``ConfigError`` where floor and cohort don't fit each other."""
        self.validate_roster(task, roster)
        check_floor(task, self.corrupt(len(cohort)))

    def cost(self, task: Task, cohort: Sequence[str] | None = None) -> Cost:
        """One message a client; see :class:`~secagg.protocols.base.Cost`."""
        ids = list(cohort or wire.stand_in_ids(task.max_clients))
        up = wire.overhead(ids[0], signed=True) + wire.structure_size(Ciphertexts()) + self._vector_size(task)
        key = wire.overhead("decryptor-1", signed=True) + wire.structure_size(
            SessionKey(bytes(self.key_size(task)))
        )
        proposal = KeyedProposal(ids, bytes(32), bytes(32), bytes(key))
        down = wire.overhead(wire.SERVER, session=False, signed=False) + wire.structure_size(proposal)
        smallest, where = (len(ids), "") if cohort else (task.min_survivors, " in the smallest session allowed")
        return Cost(
            up={Round.INPUT: up},
            down={Round.INPUT: down},
            collusion=self.collusion(task.min_survivors - 1, f"{smallest} clients{where}"),
            post_quantum=self.post_quantum,
        )

    post_quantum: ClassVar[bool]

    @abstractmethod
    def collusion(self, others: int, among: str) -> str:
        """Who breaks it."""

    def key_size(self, task: Task) -> int:
        """Bytes that the decryptor shows of its key."""
        return HASH_BYTES

    def _vector_size(self, task: Task) -> int:
        size: int = self.scheme(task).size(Digits(task).length)
        return size

    def describe(self, task: Task) -> list[str]:
        """Parameters, threat model and floor, in lines for :meth:`secagg.Task.describe`."""
        return [
            self.scheme(task).describe(),
            f"{self.threat_model} server, which up to {self.corruption:.0%} of the clients in the cohort may help",
            f"no sum of fewer than {task.min_survivors} is opened",
        ]

    def largest_message(self, task: Task, receiver: PartyRole | None) -> int:
        """Bytes; a vector to the server, the sum to the decryptor, to a client the cohort and a key."""
        key = wire.largest(self.key_size(task), signed=True)
        if receiver is PartyRole.CLIENT:
            return largest_proposal(task, key)
        if receiver is PartyRole.DECRYPTOR:
            total: int = self.scheme(task).total_size(Digits(task).length)
            opening = wire.largest(bitmap_bytes(task.max_clients), signed=False) + total
            return max(largest_proposal(task), opening)
        return max(key, wire.largest(signed=True) + max(self._vector_size(task), vectors_size(task)))


@dataclass(frozen=True)
class Paillier(Encrypted):
    """Paillier's scheme (EUROCRYPT 1999), packed, with the encryption of Damgård, Jurik and Nielsen.

    ``bits`` of the modulus: 3072 is 128-bit security, 2048 (the least) 112. ``textbook=True`` does without
    the short-exponent assumption that :mod:`he.paillier` names, and is many times slower. The
    decryptor's key lives for a run (``task.decryptor("dec", key=...)``); the roster pins the digest of its public
    half, which comes with the proposal.

    Ideal functionality, where everyone follows the protocol: the server and the decryptor learn the sum over the
    survivors, at least ``min_survivors`` of them, and who they are; with at most c clients colluding no
    sum holds fewer than ``min_survivors - c`` honest updates. Clients learn the cohort. An abort reveals nothing
    before Opening. A server that colludes with the decryptor, or lies to it, reads every update. Not
    post-quantum: recorded ciphertexts open to a later quantum computer.
    """

    bits: int = 3072
    textbook: bool = False

    ID: ClassVar[int] = 5
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

    @property
    def name(self) -> str:
        """The scheme's name."""
        return "Paillier"

    @property
    def _options(self) -> tuple[tuple[str, Any], ...]:
        return ("bits", self.bits), ("textbook", self.textbook)

    def key_pair(self, role: PartyRole, rng: Callable[[int], bytes]) -> tuple[bytes, bytes] | None:
        """The decryptor's private key, and the digest of its public one."""
        if role is not PartyRole.DECRYPTOR:
            return None
        try:
            made = _scheme(self._module, 1, 2, self._options).generate(rng)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return made.to_bytes(), pin(made.public.to_bytes())

    def workers(self, executor: Executor | None) -> Executor | None:
        """Threads, for GMP and the kernels release the interpreter's lock."""
        from secagg.protocols.lanes import threads

        return executor or threads()

    def open_sum(self, secret: Any, total: bytes, length: int, count: int, executor: Executor | None) -> Any:
        """On threads, too."""
        return secret.open(total, length, count, self.workers(executor))

    def key_size(self, task: Task) -> int:
        """The modulus."""
        return self.bits // 8

    def collusion(self, others: int, among: str) -> str:
        """The decryptor holds the key; the others subtract."""
        return f"the server and the decryptor, or the server and {others} of {among}"


@dataclass(frozen=True)
class RingLWE(Encrypted):
    """CKKS and BFV: one ring, two ways to write integers into it."""

    holder: Holder = "decryptor"

    _name: ClassVar[str]
    _packages: ClassVar[tuple[str, ...]] = ("tenseal", "zstandard")
    post_quantum: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.holder not in ("decryptor", "clients"):
            raise ConfigError(f"got holder={self.holder!r}; expected 'decryptor' or 'clients'")

    @property
    def name(self) -> str:
        """The scheme's name, and who holds its key where that is not the decryptor alone."""
        return self._name if self.holder == "decryptor" else f"{self._name}/clients"

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

    def key_size(self, task: Task) -> int:
        """The session's public key, or the digest of the shared one."""
        if self.holder == "clients":
            return HASH_BYTES
        size: int = self.scheme(task).public_size
        return size

    def collusion(self, others: int, among: str) -> str:
        """Whoever holds the key; and a client that smuggles the key into the sum, if nobody looked."""
        if self.holder == "clients":
            return "the server and any one client, for all hold the key"
        return (
            "the server and the decryptor; or the server and one client with a malformed ciphertext, which is "
            f"detected but which no proof excludes; or the server and {others} of {among}"
        )


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

    Ideal functionality, where everyone follows the protocol: as :class:`Paillier`'s. A client that departs from
    it and colludes with the server can try to smuggle the session's key into the sum with a malformed ciphertext;
    the decryptor opens nothing unless every slot is a possible sum, which detects it; no proof excludes it, and a
    key of one session bounds it.
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


@lru_cache(maxsize=32)
def _scheme(module: str, bound: int, max_clients: int, options: tuple[tuple[str, Any], ...]) -> Any:
    return importlib.import_module(module).Scheme(bound=bound, max_clients=max_clients, **dict(options))


def pin(key: bytes) -> bytes:
    """What the roster lists of a key that outlives a session."""
    return hashlib.sha256(encode_parts("secagg/v1/he-key", key)).digest()
