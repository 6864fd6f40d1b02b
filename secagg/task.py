"""The task: what both sides agree on for a whole run, written once and pinned by every client."""

from __future__ import annotations

import hashlib
import html
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Unpack

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg import _canonical, wire
from secagg._numbers import is_a, whole
from secagg.beacon import Fetch
from secagg.corruption import corrupt_among, corrupt_count
from secagg.encoding import ENCODING_MEMBERS, Encoding, PlainEncoding, Segment, lacking_members, read_segments
from secagg.errors import ConfigError, SecAggError, blaming, kind_of, shown, words
from secagg.identity import PartyRole, Roster, check_clients
from secagg.layout import Layout
from secagg.protocols.base import AggregationProtocol
from secagg.registry import TaskClasses
from secagg.roles.client import Client
from secagg.roles.environment import Budget, Environment, Lent
from secagg.roles.listener import Aggregator, Decryptor
from secagg.roles.server import Server
from secagg.store import Store
from secagg.table import rounds

#: The most bytes of ``context``.
MAX_CONTEXT_BYTES = 1024
#: The largest ``max_clients``.
MAX_CLIENTS = 1 << 24
_MOST_CLASSES = 1024  # that a caller of from_bytes knows


@dataclass(frozen=True, repr=False)
class Task:
    """What a run aggregates, and how; frozen, serialisable, and the same bytes on every client.

    ``protocol`` and ``encoding`` are objects such as ``SecAgg()`` and ``FixedPoint(clip=1.0)``;
    ``max_clients`` bounds a cohort and with it every sum; fewer than ``min_survivors`` inputs are never
    opened; ``max_weight`` is the largest weight of a client (None: unweighted); ``context`` is bytes
    that name the run. Raises ``ConfigError`` if fields do not fit together; its text says what would fit.
    """

    protocol: AggregationProtocol
    layout: Layout
    encoding: Encoding
    max_clients: int
    min_survivors: int
    max_weight: int | None = None
    context: bytes = b""

    def __post_init__(self) -> None:
        with blaming(ConfigError, "got parts of a task that can't be read"):
            self._check()

    def _check(self) -> None:
        if is_a(self.protocol, str | type) or not is_a(self.protocol, (AggregationProtocol,)):
            raise ConfigError(f"got protocol {shown(self.protocol)}; expected an object such as secagg.SecAgg()")
        if not is_a(self.layout, Layout):
            raise ConfigError(f"got {shown(self.layout)} as layout; expected secagg.Layout.of(update)")
        if is_a(self.encoding, str | type) or (lacking := lacking_members(self.encoding)) == ENCODING_MEMBERS:
            raise ConfigError(f"got encoding {shown(self.encoding)}; expected one such as FixedPoint(clip=1.0)")
        kind: Any = type(self.encoding)
        if not lacking and kind.for_task is not PlainEncoding.for_task and kind.check is PlainEncoding.check:
            raise ConfigError(
                f"got a {kind_of(self.encoding)}, which has for_task and no check of its own; expected both, so "
                "that it can refuse a roster with more colluders than its noise allows for"
            )
        if lacking:
            raise ConfigError(
                f"got encoding {kind_of(self.encoding)} without {', '.join(lacking)}; expected all members of "
                "secagg.encoding.Encoding: subclass secagg.encoding.PlainEncoding if it adds no noise"
            )
        self._set("max_clients", _integer("max_clients", self.max_clients, 1, MAX_CLIENTS))
        self._set("min_survivors", _integer("min_survivors", self.min_survivors, 1, self.max_clients))
        if self.max_weight is not None:
            self._set("max_weight", _integer("max_weight", self.max_weight, 1, 1 << 32))
        if not is_a(self.context, bytes) or bytes.__len__(self.context) > MAX_CONTEXT_BYTES:
            raise ConfigError(
                f"got context={shown(self.context)}; expected bytes, at most {MAX_CONTEXT_BYTES} bytes of them"
            )
        self._set("context", bytes(memoryview(self.context)))  # NumPy's bytes are a subclass
        self.protocol.validate(self)
        self._check_sizes()
        _check_kernel()

    def _check_sizes(self) -> None:
        """``ConfigError`` if a message of this task could be larger than an envelope carries."""
        for receiver in (None, PartyRole.CLIENT, *self.protocol.party_counts):
            size = self.largest_message(receiver)
            if size > wire.LARGEST_BODY:
                raise ConfigError(
                    f"got a task whose largest message to the {receiver or 'server'} has {size:,} bytes; expected "
                    f"at most {wire.LARGEST_BODY:,}: lower max_clients, or use a layout with fewer coordinates or "
                    "an encoding with fewer bits"
                )

    def largest_message(self, receiver: PartyRole | None) -> int:
        """Bytes of the largest message that ``receiver`` reads; of the server if it is None."""
        if receiver not in self._largest:
            self._largest[receiver] = self.protocol.largest_message(self, receiver)
        return self._largest[receiver]

    @cached_property
    def _largest(self) -> dict[PartyRole | None, int]:
        """What :meth:`largest_message` has computed, which every role asks for."""
        return {}

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """What the encoding sends, segment by segment."""
        with blaming(ConfigError, "got an encoding whose segments can't be read"):
            try:
                segments = self.encoder.segments(self.layout, self.max_weight)
            except SecAggError:
                raise
            except ValueError as error:  # dp's own errors are ValueErrors
                raise ConfigError(words(error)) from error
            return read_segments(segments)

    @cached_property
    def encoder(self) -> Encoding:
        """The encoding with its noise, if it has any, calibrated to this task."""
        try:
            return self.encoding.for_task(
                max_clients=self.max_clients,
                honest=self.honest,
                corrupt=self._assumed,
                shows_terms=self.shows_terms,
            )
        except Exception as error:  # dp's own errors, and what another package's encoding raises
            raise ConfigError(words(error)) from error

    def encoder_for(self, session: bytes) -> Encoding:
        """The encoding in the session named ``session``; it may have, for example, a public rotation of its own."""
        return self.encoder.for_session(session)

    @property
    def honest(self) -> int:
        """h: the number of honest updates in every opened sum, if as many clients as assumed are corrupt.

        It is 1 where the protocol :attr:`shows_terms`: there, each client's own noise alone must be enough.
        """
        return 1 if self.shows_terms else self.min_survivors - self._assumed

    @property
    def shows_terms(self) -> bool:
        """Whether the server reads each client's term by itself, alone or with the help of any one client.

        It does so in the clear, where all clients share one key, and under a protocol that states no
        ``corruption``.
        """
        return self.protocol.shows_terms

    @property
    def _assumed(self) -> int:
        """c in the largest cohort; with more clients enrolled, a malicious server can choose more corrupt ones."""
        corruption = self.protocol.corruption
        return 0 if self.shows_terms or corruption is None else corrupt_count(corruption, self.max_clients)

    def check_honest(self, cohort: int, roster: Roster | None) -> None:
        """``ConfigError`` if more clients may be corrupt than the noise was calibrated for.

        ``cohort`` is the number of clients in the session, and ``roster`` lists the enrolled ones.
        """
        if self.shows_terms:
            return
        corrupt = corrupt_among(self.protocol, cohort, roster)
        try:
            self.encoder.check(self.max_clients, self.min_survivors - corrupt, corrupt)
        except Exception as error:
            enrolled = cohort if roster is None else len(roster.ids(PartyRole.CLIENT))
            raise ConfigError(
                f"got {enrolled} clients enrolled, {corrupt} of them possibly corrupt, more than the noise allows "
                f"for: enrol fewer, raise max_clients, or lower corruption if fewer can collude ({words(error)})"
            ) from error

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of :meth:`to_bytes`; in every message, signature and key derivation."""
        return hashlib.sha256(self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """The canonical bytes: label, wire version, then the fields in declared order."""
        return _canonical.encode(("secagg/v1/task", wire.VERSION, self))

    @classmethod
    def from_bytes(cls, data: bytes, *, known: Iterable[type] = ()) -> Task:
        """The task in ``data``, from :meth:`to_bytes`; ``known`` are classes of further protocols or encodings.

        Raises ``ConfigError`` for bytes that are not a task, are of another wire version, or name an unknown class.
        """
        with blaming(ConfigError, "known= are not classes; expected those of your protocols and encodings"):
            yours = {kind.__name__: kind for _, kind in zip(range(_MOST_CLASSES), known, strict=False)}
            classes: Mapping[str, type] = TaskClasses(yours | {"Task": cls})
        match _canonical.decode(data, classes):
            case ("secagg/v1/task", wire.VERSION, Task() as task):
                return task
            case ("secagg/v1/task", version, _):
                raise ConfigError(f"got a task of wire version {version}; this library speaks {wire.VERSION}")
        raise ConfigError("these bytes are not a task; write one with task.to_bytes()")

    def server(
        self,
        cohort: Iterable[str],
        *,
        roster: Roster | None = None,
        session: bytes,
        save: Store | None = None,
        rng: Callable[[int], bytes] = os.urandom,
        executor: Executor | None = None,
        beacon: Fetch | None = None,
    ) -> Server[Any]:
        """The server of one session over ``cohort``; ``session`` names it (round number, model hash).

        ``roster`` lists everyone enrolled (None: nobody is authenticated). ``save`` keeps the state at the end of a
        round. ``rng`` gives random bytes, for the session's nonce. ``executor`` runs heavy work, by default
        threads: an executor of ``concurrent.futures``, such as Dask's, or
        :class:`secagg.integrations.ray.RayExecutor`. ``beacon`` is needed where the protocol has a beacon: a
        function that takes the number of a round and returns the value that the beacon published in it, or None
        before that.
        """
        lent = Environment(roster=roster, save=save, rng=rng, executor=executor, beacon=beacon)
        return self.protocol.server(self, cohort, lent, session=session)

    def client(
        self,
        client_id: str,
        *,
        identity: Ed25519PrivateKey | None = None,
        roster: Roster | None = None,
        session: bytes | None = None,
        save: Store | None = None,
        key: bytes | None = None,
        rng: Callable[[int], bytes] = os.urandom,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.time,
        budget: Budget | None = None,
        beacon: Fetch | None = None,
    ) -> Client[Any]:
        """A client of one session: the session named ``session``, or without a name any that the server proposes.

        ``client_id`` is its id. ``identity``, the private key that it signs with, and ``roster``, which lists
        everyone's public key, come together; without them nothing is authenticated. ``save`` keeps its state, and
        may have a ledger. ``key`` is the key that all clients share, if the protocol has one. ``rng`` gives random
        bytes; it is called once, for the 32-byte seed. ``executor`` runs heavy work, by default threads; it gets
        the keys of this client's masks. ``clock`` returns the time (seconds since 1970). Only a protocol with a
        beacon reads it. ``budget``, such as a :class:`dp.PrivacyLedger`, is charged just before an input with noise
        leaves, and again for a retry. If it has no room, the input stays and ``LocalProtocolError`` is raised.
        ``beacon`` is needed where a beacon draws a committee: see :meth:`server`.
        """
        lent = Environment(
            identity=identity,
            roster=roster,
            save=save,
            key=key,
            rng=rng,
            executor=executor,
            clock=clock,
            budget=budget,
            beacon=beacon,
        )
        return self._client_class()(self, client_id, lent, session=session)

    def decryptor(self, party_id: str, *, session: bytes | None = None, **lent: Unpack[Lent]) -> Decryptor[Any]:
        """A decryptor, with the arguments of :meth:`aggregator`; ``key`` is its own, if that is long-lived."""
        kind: type[Decryptor[Any]] = self._class(PartyRole.DECRYPTOR)
        return kind(self, party_id, Environment(**lent), session=session)

    def aggregator(self, party_id: str, *, session: bytes | None = None, **lent: Unpack[Lent]) -> Aggregator[Any]:
        """The aggregator ``party_id`` of a session; ``session`` and ``lent`` are the arguments of :meth:`client`.

        ``key`` is its private sealing key. Raises ``ConfigError`` if the protocol has no aggregators, or if the
        roster lists another key.
        """
        kind: type[Aggregator[Any]] = self._class(PartyRole.AGGREGATOR)
        return kind(self, party_id, Environment(**lent), session=session)

    def restore_server(self, data: bytes, **lent: Unpack[Lent]) -> Server[Any]:
        """The server that was saved as ``data``. Pass the arguments that it was made with as ``lent``.

        Its ``start()`` asks each party again that is still pending. Raises ``ConfigError`` if the bytes are
        damaged, or are of another task or roster.
        """
        return self.protocol.server.from_bytes(data, self, Environment(**lent))

    def restore_client(self, data: bytes, **lent: Unpack[Lent]) -> Client[Any]:
        """The client that was saved as ``data``. Pass the arguments that it was made with as ``lent``.

        Raises ``ConfigError`` if the bytes are damaged, are of another task, role or roster, or are of a client
        with a ``budget`` and none is passed. Raises ``LocalProtocolError`` if the client has answered anything and
        ``save`` has no ledger: without one, nothing keeps it from giving a second, different answer.
        """
        return self._client_class().from_bytes(data, self, Environment(**lent))

    def restore_decryptor(self, data: bytes, **lent: Unpack[Lent]) -> Decryptor[Any]:
        """The decryptor that was saved as ``data``; see :meth:`restore_client`."""
        kind: type[Decryptor[Any]] = self._class(PartyRole.DECRYPTOR)
        return kind.from_bytes(data, self, Environment(**lent))

    def restore_aggregator(self, data: bytes, **lent: Unpack[Lent]) -> Aggregator[Any]:
        """The aggregator that was saved as ``data``; see :meth:`restore_client`."""
        kind: type[Aggregator[Any]] = self._class(PartyRole.AGGREGATOR)
        return kind.from_bytes(data, self, Environment(**lent))

    def _client_class(self) -> type[Client[Any]]:
        """The class of the protocol's clients."""
        kind = self.protocol.role_classes[PartyRole.CLIENT]
        if not issubclass(kind, Client):
            raise ConfigError(f"got {kind.__name__} as the client of {self.protocol.name}; it must be a Client")
        return kind

    def _class(self, role: PartyRole) -> Any:
        """The class of a role other than client and server."""
        kind = self.protocol.role_classes.get(role)
        if kind is None:
            raise ConfigError(f"got {self.protocol.name}, which has no {role}")
        return kind

    def check_cohort(self, cohort: list[str], roster: Roster | None) -> None:
        """``ConfigError`` if this task or ``roster`` does not allow the clients in ``cohort`` (sorted ids)."""
        if not self.min_survivors <= len(cohort) <= self.max_clients:
            raise ConfigError(
                f"got a cohort of {len(cohort)}{' or more' * (len(cohort) > self.max_clients)}; expected "
                f"{self.min_survivors} (min_survivors) to {self.max_clients} (max_clients)"
            )
        check_clients(cohort, roster)
        self.protocol.validate_roster(self, roster)
        self.protocol.validate_cohort(self, cohort, roster)
        self.check_honest(len(cohort), roster)

    def diff(self, other: Task) -> tuple[str, ...]:
        """The fields that differ from those of ``other``, one line each: field, value here, value there.

        It helps two sides whose digests differ, and is empty if both tasks are the same. Raises ``ConfigError`` if
        ``other`` is not a task.
        """
        if not issubclass(type(other), Task):
            raise ConfigError(f"got {shown(other)}; expected a task: secagg.Task.from_bytes(theirs)")
        return tuple(_canonical.differences(self, other, ""))

    def __repr__(self) -> str:
        weighted = "" if self.max_weight is None else f", weights to {self.max_weight}"
        return (
            f"<Task: {self.protocol.name} over up to {self.max_clients} clients, opened for {self.min_survivors} "
            f"or more; {kind_of(self.encoding)} of {self.layout.size:,} coordinates{weighted}; "
            f"context {shown(self.context)}>"
        )

    def _repr_html_(self) -> str:
        """What :meth:`describe` says, for notebooks."""
        return f"<pre>{html.escape(self.describe())}</pre>"

    @blaming(ConfigError, "got a protocol or an encoding that can't describe itself")
    def describe(self) -> str:
        """What the task means, in words: rounds, bytes, precision, thresholds, who must collude."""
        cost = self.protocol.cost(self)
        weighted = f"integer weights 1 to {self.max_weight}" if self.max_weight else "unweighted"
        lines = [
            f"{self.protocol.name} over up to {self.max_clients} clients, opened for {self.min_survivors} or more",
            f"  task      {self.digest.hex()}",
            f"  rounds    {', '.join(rounds(self.protocol))}",
            f"  vector    {self.layout.extent}, {weighted}",
            *(f"  encoding  {line}" for line in self.encoder.describe(self.layout, self.max_weight)),
            *(f"  trust     {line}" for line in self.protocol.describe(self)),
            f"  bytes     {sum(cost.up.values()):,} up and {sum(cost.down.values()):,} down a client and session,"
            f" at {self.max_clients} clients",
            f"  trust     to learn one client's update would take {cost.collusion}",
            f"            {'post-quantum confidentiality' if cost.post_quantum else 'not post-quantum'}",
        ]
        return "\n".join(lines)


def _check_kernel() -> None:
    """``ConfigError`` if the environment forces a mask kernel that is not here; else the first mask would fail."""
    from mpc import MPCError, masks

    if os.environ.get(masks.VARIABLE):
        try:
            masks.compiled()
        except MPCError as error:
            raise ConfigError(words(error)) from error


def _integer(name: str, value: object, least: int, most: int) -> int:
    number = whole(value)
    if number is None or not least <= number <= most:
        raise ConfigError(f"got {name}={shown(value)}; expected an integer from {least} to {most}")
    return number
