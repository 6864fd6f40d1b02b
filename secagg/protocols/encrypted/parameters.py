"""The parameters that Paillier, CKKS and BFV have in common: rounds, costs, and who has to be trusted.

The roles in ``client``, ``decryptor`` and ``server`` read these parameters; ``protocol`` stands above
both and names the roles.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from he.errors import INSTALL
from he.scheme import Scheme
from secagg import wire
from secagg.bitmap import bitmap_bytes
from secagg.corruption import check_corruption, check_floor, corrupt_count
from secagg.errors import ConfigError, FaultKind, chosen, shown
from secagg.identity import Party, PartyRole, Roster
from secagg.lanes import check_mask_bits, vectors_size
from secagg.protocols.base import AggregationProtocol, Cost, largest_proposal
from secagg.protocols.encrypted.digits import Digits
from secagg.protocols.encrypted.messages import (
    HASH_BYTES,
    Ciphertexts,
    Commitment,
    Committed,
    EncryptedSum,
    KeyedProposal,
    OpenedSum,
    SessionKey,
    pin,
)
from secagg.table import Phase, Proposal, Round
from secagg.wire import Reject

if TYPE_CHECKING:
    from secagg.task import Task


@dataclass(frozen=True)
class Encrypted(AggregationProtocol):
    """What the homomorphic protocols have in common: everything but the scheme and the holder of its key.

    ``corruption`` is the fraction of clients that may collude with the server and depart from the protocol.
    ``commit=False`` leaves the round Commit out and saves 286 bytes a client. It is weaker: one client
    that departs from the protocol, and that sees the others' ciphertexts, reads any one update in the
    opened sum, and nobody notices. Noise (``dp``) is then sized for one honest update, as in the clear.
    """

    corruption: float = 0.05
    threat_model: str = "semi-honest"
    commit: bool = True

    party_counts: ClassVar[Mapping[PartyRole, int]] = {PartyRole.DECRYPTOR: 1}

    def __post_init__(self) -> None:
        if type(self.commit) is not bool:
            raise ConfigError(f"got commit={shown(self.commit)}; expected True, or False for no round Commit")
        if chosen(self.threat_model, ("semi-honest",)) is None:
            raise ConfigError(
                f"got threat_model={shown(self.threat_model)}; expected 'semi-honest': {self.name} is safe only "
                "with a server that follows the protocol, since a lying server can have a single client's "
                "ciphertext opened; use SecAgg() against it"
            )
        object.__setattr__(self, "corruption", check_corruption(self.corruption))

    @property
    def name(self) -> str:
        """The scheme's name, and how it differs from the default."""
        return "/".join([self._name, *self._weaker])

    _name: ClassVar[str]

    @property
    def _weaker(self) -> list[str]:
        """How it is weaker than the default, in one word each."""
        return [] if self.commit else ["uncommitted"]

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The table of rounds; without ``commit`` it has no round Commit."""
        client, decryptor = PartyRole.CLIENT, PartyRole.DECRYPTOR
        proposed = (
            (
                Phase(Round.COMMIT, client, KeyedProposal, Commitment, commits_input=True),
                Phase(Round.INPUT, client, Committed, Ciphertexts, takes_input=True, reply_vectors=True),
            )
            if self.commit
            else (Phase(Round.INPUT, client, KeyedProposal, Ciphertexts, takes_input=True, reply_vectors=True),)
        )
        return (
            Phase(Round.SESSION_KEY, decryptor, Proposal, SessionKey),
            *proposed,
            Phase(Round.OPENING, decryptor, EncryptedSum, OpenedSum, request_vectors=True, reply_vectors=True),
        )

    @property
    def unseeded(self) -> tuple[str, ...]:
        """All rounds, if keys and ciphertexts follow from a generator of the scheme's own; otherwise none."""
        scheme = make_scheme(self._module, 1, 2, self._options)
        return () if scheme.deterministic else tuple(phase.round for phase in self.phases)

    @property
    @abstractmethod
    def pinned(self) -> bool:
        """Whether the key outlives the session, so that the roster pins its digest."""

    @property
    def shared_key(self) -> bool:
        """Whether clients and decryptor hold one and the same key."""
        return False

    @property
    def shows_terms(self) -> bool:
        """Whether a server that one client helps may read a term apart from the noise of the others.

        It may if that client has the key of all clients, if that client can cancel the others' ciphertexts,
        and if a ciphertext that it recorded in one session opens in another.
        """
        return not self.commit or self.pinned

    def check_pinned(self, shown: bytes, decryptor: Party) -> None:
        """Raise ``Reject`` if ``decryptor`` shows another public key than that of the roster.

        ``shown`` are the bytes of the key that it shows. Nothing is checked if keys are of one session only.
        """
        if self.pinned and decryptor.encryption_key != (shown if self.shared_key else pin(shown)):
            raise Reject(FaultKind.INVALID, f"got a key of {decryptor.id} that differs from the key in the roster")

    def scheme(self, task: Task) -> Scheme:
        """The scheme of :mod:`he` that carries the task; ``ConfigError`` with the reason if none does."""
        digits = Digits(task)
        try:
            scheme = make_scheme(self._module, digits.bound, task.max_clients, self._options)
            scheme.size(digits.length)  # the scheme refuses a vector that is too long for it
            return scheme
        except ValueError as error:  # the errors of he are ValueErrors
            raise ConfigError(f"{self.name} can't carry this task: {error}") from error

    _module: ClassVar[str]

    @property
    @abstractmethod
    def _packages(self) -> tuple[str, ...]:
        """Packages of the extra that the scheme needs: checked when a task is made, loaded when first used."""

    @property
    @abstractmethod
    def _options(self) -> tuple[tuple[str, Any], ...]:
        """The scheme's arguments besides bound and number of clients."""

    @abstractmethod
    def key_pair(self, role: PartyRole, rng: Callable[[int], bytes]) -> tuple[bytes, bytes] | None:
        """The long-lived key that ``role`` holds, and its value in the roster; None if it has none."""

    def corrupt(self, cohort: int) -> int:
        """c: how many of the ``cohort`` clients of a session may collude with the server."""
        return corrupt_count(self.corruption, cohort)

    def validate(self, task: Task) -> None:
        """Raise ``ConfigError`` if no parameters carry the sum, or if no cohort could be safe."""
        check_mask_bits(task)
        self.check_packages()
        self.scheme(task)
        check_floor(task, self.corrupt(task.min_survivors))

    def check_packages(self) -> None:
        """Raise ``ConfigError`` unless the packages of the extra are there that the scheme needs."""
        for package in self._packages:
            if importlib.util.find_spec(package) is None:
                reason = f"the package {package} is missing; {self.name} needs it: {INSTALL}"
                raise ConfigError(reason) from ModuleNotFoundError(reason, name=package)

    def validate_roster(self, task: Task, roster: Roster | None) -> None:
        """Raise ``ConfigError`` unless the roster lists exactly one decryptor, with its key if that is pinned."""
        if roster is None:
            raise ConfigError(
                f"got no roster; {self.name} needs one with clients and a decryptor: pass roster= and identity="
            )
        decryptors = roster.ids(PartyRole.DECRYPTOR)
        if len(decryptors) != 1:
            raise ConfigError(
                f"got a roster of {len(decryptors)} decryptors; expected 1 for {self.name}: enrol it with secagg "
                "keygen --role decryptor"
            )
        pinned = roster[decryptors[0]].encryption_key
        if self.pinned and (pinned is None or len(pinned) != HASH_BYTES):
            listed = "no digest" if pinned is None else f"{len(pinned)} bytes"
            option = "--shared-he" if self.shared_key else "--paillier BITS"
            raise ConfigError(
                f"got {listed} for the key of {decryptors[0]} in the roster; expected one of {HASH_BYTES} bytes: "
                f"enrol it with secagg keygen {decryptors[0]} --role decryptor {option}, in a new folder"
            )

    def validate_cohort(self, task: Task, cohort: Sequence[str], roster: Roster | None) -> None:
        """Raise ``ConfigError`` if the cohort is too large for ``min_survivors``."""
        check_floor(task, self.corrupt(len(cohort)))

    def cost(self, task: Task, cohort: Sequence[str] | None = None) -> Cost:
        """A commitment and an encrypted vector a client; see :class:`~secagg.protocols.base.Cost`."""
        ids = list(cohort or wire.stand_in_ids(task.max_clients))
        frame = wire.overhead(ids[0], signed=True)
        key = wire.overhead("decryptor-1", signed=True) + wire.structure_size(
            SessionKey(bytes(self.key_size(task)))
        )
        proposal = KeyedProposal(ids, bytes(32), bytes(32), bytes(key))
        proposed = wire.overhead(wire.SERVER, session=False, signed=False) + wire.structure_size(proposal)
        up: dict[str, int] = {Round.INPUT: frame + wire.structure_size(Ciphertexts()) + self._vector_size(task)}
        down: dict[str, int] = {Round.INPUT: proposed}
        if self.commit:
            asked = wire.overhead(wire.SERVER, signed=False) + wire.structure_size(Committed())
            committed = frame + wire.structure_size(Commitment(bytes(HASH_BYTES)))
            up = {Round.COMMIT: committed, **up}
            down = {Round.COMMIT: proposed, Round.INPUT: asked}
        smallest, where = (len(ids), "") if cohort else (task.min_survivors, " in the smallest session allowed")
        return Cost(
            up=up,
            down=down,
            collusion=self.collusion(task.min_survivors - 1, f"{smallest} clients{where}"),
            post_quantum=self.post_quantum,
        )

    post_quantum: ClassVar[bool]

    def collusion(self, others: int, among: str) -> str:
        """Who has to collude to learn an update, as alternatives.

        One of them is the server with ``others`` clients; ``among`` says in words of how many.
        """
        who = [*self._broken_by, f"the server and {others} of {among}"]
        if not self.commit:
            who.insert(0, "a server that shows received ciphertexts to one client that departs from the protocol")
        return "; or ".join(who)

    @property
    @abstractmethod
    def _broken_by(self) -> list[str]:
        """Who breaks it, apart from the server with all other clients."""

    def key_size(self, task: Task) -> int:
        """Bytes that the decryptor shows of its key: the public key, or the digest of a shared one."""
        return HASH_BYTES if self.shared_key else self.scheme(task).public_size

    def _vector_size(self, task: Task) -> int:
        return self.scheme(task).size(Digits(task).length)

    def describe(self, task: Task) -> list[str]:
        """Parameters, threat model and floor, in lines for :meth:`secagg.Task.describe`."""
        return [
            self.scheme(task).describe(),
            f"{self.threat_model} server, which up to {self.corruption:.0%} of the clients in the cohort may help",
            "each client commits to its ciphertexts before it sends them, so that none depends on another client's"
            if self.commit
            else "no round Commit: one client that sees the others' ciphertexts can cancel them, and the opened "
            "sum is then one update",
            *self._key_lines,
            f"no sum of fewer than {task.min_survivors} is opened",
        ]

    @property
    def _key_lines(self) -> list[str]:
        """Lines about the key."""
        return []

    def largest_message(self, task: Task, receiver: PartyRole | None) -> int:
        """Bytes: a vector for the server, the sum for the decryptor, the cohort and a key for a client."""
        key = wire.largest(self.key_size(task), signed=True)
        if receiver is PartyRole.CLIENT:
            return largest_proposal(task, key)
        if receiver is PartyRole.DECRYPTOR:
            total = self.scheme(task).total_size(Digits(task).length)
            opening = wire.largest(bitmap_bytes(task.max_clients), signed=False) + total
            return max(largest_proposal(task), opening)
        vectors = wire.largest(signed=True) + max(self._vector_size(task), vectors_size(task))
        return max(key, wire.largest(HASH_BYTES, signed=True), vectors)


@lru_cache(maxsize=32)
def make_scheme(module: str, bound: int, max_clients: int, options: tuple[tuple[str, Any], ...]) -> Scheme:
    """The scheme of a module of :mod:`he`; the same object for the same arguments."""
    scheme: Scheme = importlib.import_module(module).Scheme(bound=bound, max_clients=max_clients, **dict(options))
    return scheme
