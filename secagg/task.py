"""The task: what both sides agree on for a whole run, written once and pinned by every client."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import importlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Unpack

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg import _canonical, wire
from secagg._numbers import is_a, whole
from secagg.beacon import Fetch
from secagg.corruption import corrupt_among, corrupt_count
from secagg.encoding import ENCODING_MEMBERS, Encoding, PlainEncoding, Segment, SegmentLike, lacking_members
from secagg.errors import ConfigError, SecAggError, blaming, kind_of, shown, words
from secagg.identity import PartyRole, Roster, check_party_id
from secagg.layout import MAX_SIZE, Layout
from secagg.protocols.base import AggregationProtocol, client_class
from secagg.registry import TASK_CLASSES
from secagg.roles.environment import Budget, Environment, Lent
from secagg.store import Store
from secagg.table import rounds

if TYPE_CHECKING:
    from secagg.roles.client import Client
    from secagg.roles.listener import Aggregator, Decryptor
    from secagg.roles.server import Server

MAX_CONTEXT_BYTES = 1024
MAX_CLIENTS = 1 << 24
_MOST_SEGMENTS = 256  # of an encoding; ours have two or three


@dataclass(frozen=True, repr=False)
class Task:
    """What a run aggregates, and how; frozen, serialisable, and the same bytes on every client.

    ``protocol`` and ``encoding`` are objects such as ``SecAgg()`` and ``FixedPoint(clip=1.0)``;
    ``max_clients`` bounds a cohort and with it every sum; fewer than ``min_survivors`` inputs are never
    opened; ``max_weight`` is the largest weight of a client (None: unweighted); ``context`` is bytes
    that name the run. ``ConfigError`` says what does not fit together, and what would.
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
                "that it can refuse a roster with more colluders than its noise was made for"
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

    def _check_sizes(self) -> None:
        """``ConfigError`` if a message of this task could be larger than an envelope carries."""
        for receiver in (None, PartyRole.CLIENT, *self.protocol.others):
            size = self.protocol.largest_message(self, receiver)
            if size > wire.LARGEST_BODY:
                raise ConfigError(
                    f"got a task whose largest message to the {receiver or 'server'} has {size:,} bytes; expected "
                    f"at most {wire.LARGEST_BODY:,}: lower max_clients, or use a layout with fewer coordinates or "
                    "an encoding with fewer bits"
                )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """What the encoding sends, segment by segment."""
        with blaming(ConfigError, "got an encoding whose segments can't be read"):
            try:
                found = self.encoder.segments(self.layout, self.max_weight)
            except SecAggError:
                raise
            except ValueError as error:  # dp's own errors are
                raise ConfigError(words(error)) from error
            segments = tuple(_segment(item) for _, item in zip(range(_MOST_SEGMENTS + 1), found, strict=False))
        if not 1 <= len(segments) <= _MOST_SEGMENTS:
            raise ConfigError(f"got an encoding of no segments or too many; expected 1 to {_MOST_SEGMENTS}")
        return segments

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
        """The encoding of one session: one may have a public rotation of its own, say."""
        return self.encoder.for_session(session)

    @property
    def honest(self) -> int:
        """h: how many honest updates every opened sum holds, if as many clients as assumed are corrupt.

        One, under a protocol that :attr:`shows_terms`: there every client's own noise has to do.
        """
        return 1 if self.shows_terms else self.min_survivors - self._assumed

    @property
    def shows_terms(self) -> bool:
        """Whether the server reads each client's term by itself, alone or with the help of any one client.

        So it is in the clear, where all clients share one key, and under a protocol that states no ``corruption``.
        """
        return self.protocol.shows_terms

    @property
    def _assumed(self) -> int:
        """c in the largest cohort; with more enrolled than that, a malicious server has more to choose from."""
        corruption = self.protocol.corruption
        return 0 if self.shows_terms or corruption is None else corrupt_count(corruption, self.max_clients)

    def check_honest(self, cohort: int, roster: Roster | None) -> None:
        """``ConfigError`` where more may be corrupt than noise was calibrated to."""
        if self.shows_terms:
            return
        corrupt = corrupt_among(self.protocol, cohort, roster)
        try:
            self.encoder.check(self.max_clients, self.min_survivors - corrupt, corrupt)
        except Exception as error:
            enrolled = cohort if roster is None else len(roster.ids(PartyRole.CLIENT))
            raise ConfigError(
                f"got {enrolled} clients enrolled, {corrupt} of them possibly corrupt, more than the noise is made "
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
        """The task that :meth:`to_bytes` wrote; ``known`` are further protocols or encodings.

        ``ConfigError`` for bytes of another wire version, an unknown class, or no task at all.
        """
        with blaming(ConfigError, "got known= that are no classes; expected those of your protocols and encodings"):
            classes: Mapping[str, type] = _Classes({found.__name__: found for found in known} | {"Task": cls})
        match _canonical.decode(data, classes):
            case ("secagg/v1/task", wire.VERSION, Task() as task):
                return task
            case ("secagg/v1/task", version, _):
                raise ConfigError(f"got a task of wire version {version}; this library speaks {wire.VERSION}")
        raise ConfigError("got bytes that are no task; write one with task.to_bytes()")

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

        ``executor`` runs what is heavy: any of ``concurrent.futures``, or Dask's; by default threads.
        ``beacon`` gets what the protocol's beacon, if it has one, published in a round; None while it hasn't.
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
    ) -> Client[Any]:
        """A client of one session: the one named ``session``, or whichever the server proposes.

        ``save`` keeps its state and its ledger; ``key`` is the key that all clients share, where the protocol
        has such a one; ``rng`` is drawn from once, for the 32-byte seed.
        ``executor`` runs what is heavy, by default threads; it gets the keys of this client's masks.
        ``clock`` gives the time (seconds since 1970) to a protocol that asks for it: only one with a beacon does.
        ``budget`` (a :class:`dp.PrivacyLedger`, say) is charged just before an input under a noising encoding
        leaves, for a retry again; past it the input stays, with ``LocalProtocolError``.
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
        )
        return client_class(self.protocol)(self, client_id, lent, session=session)

    def decryptor(self, party_id: str, *, session: bytes | None = None, **lent: Unpack[Lent]) -> Decryptor[Any]:
        """A decryptor of one session, with a client's arguments; ``ConfigError`` where the protocol has none."""
        made: Decryptor[Any] = self._class(PartyRole.DECRYPTOR)(
            self, party_id, Environment(**lent), session=session
        )
        return made

    def aggregator(self, party_id: str, *, session: bytes | None = None, **lent: Unpack[Lent]) -> Aggregator[Any]:
        """An aggregator of one session, with a client's arguments and ``key``, its private sealing key.

        ``ConfigError`` where the protocol has no aggregators, or the roster lists another key.
        """
        made: Aggregator[Any] = self._class(PartyRole.AGGREGATOR)(
            self, party_id, Environment(**lent), session=session
        )
        return made

    def restore_server(self, data: bytes, **lent: Unpack[Lent]) -> Server[Any]:
        """The server that was saved as ``data``, with the arguments that it was made with.

        Its ``start()`` asks again each party that is still pending. ``ConfigError`` if the bytes are of another
        task or roster, or are damaged.
        """
        return self.protocol.server.from_bytes(data, self, Environment(**lent))

    def restore_client(self, data: bytes, **lent: Unpack[Lent]) -> Client[Any]:
        """The client that was saved as ``data``, with the arguments that it was made with.

        ``ConfigError`` if the bytes are of another task, role or roster, are damaged, or are of a client that had
        a ``budget`` and is given none. A client that has answered anything needs a ``save`` with a ledger, or
        ``LocalProtocolError`` is raised: without a ledger nothing holds it to one story.
        """
        return client_class(self.protocol).from_bytes(data, self, Environment(**lent))

    def restore_decryptor(self, data: bytes, **lent: Unpack[Lent]) -> Decryptor[Any]:
        """The decryptor that was saved as ``data``; see :meth:`restore_client`."""
        made: Decryptor[Any] = self._class(PartyRole.DECRYPTOR).from_bytes(data, self, Environment(**lent))
        return made

    def restore_aggregator(self, data: bytes, **lent: Unpack[Lent]) -> Aggregator[Any]:
        """The aggregator that was saved as ``data``; see :meth:`restore_client`."""
        made: Aggregator[Any] = self._class(PartyRole.AGGREGATOR).from_bytes(data, self, Environment(**lent))
        return made

    def _class(self, role: PartyRole) -> Any:
        """The class of a role other than client and server."""
        made = self.protocol.members.get(role)
        if made is None:
            raise ConfigError(f"got {self.protocol.name}, which has no {role}")
        return made

    def check_cohort(self, cohort: list[str], roster: Roster | None) -> None:
        """``ConfigError`` for a cohort that this task and ``roster`` don't allow."""

        if not self.min_survivors <= len(cohort) <= self.max_clients:
            raise ConfigError(
                f"got a cohort of {len(cohort)}; expected {self.min_survivors} (min_survivors) to "
                f"{self.max_clients} (max_clients)"
            )
        for before, member in pairwise(["", *cohort]):
            check_party_id(member)
            if member <= before:
                raise ConfigError(f"got a cohort with {member} twice or out of order; every id stands in it once")
            if roster is not None and ((party := roster.get(member)) is None or party.role is not PartyRole.CLIENT):
                raise ConfigError(
                    f"got {member} in the cohort, which the roster doesn't list as a client; leave it out, or "
                    "enrol it and give everyone the new roster (secagg keygen, secagg roster merge)"
                )
        self.protocol.validate_cohort(self, cohort, roster)
        self.check_honest(len(cohort), roster)

    def diff(self, other: Task) -> tuple[str, ...]:
        """Which fields differ from those of ``other``, a line each: the field, its value here, its value there.

        For two sides whose digests differ; empty where both tasks are the same. ``ConfigError`` if it is no task.
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
            f"  vector    {self.layout.size:,} coordinates in {len(self.layout.leaves)} leaves, {weighted}",
            *(f"  encoding  {line}" for line in self.encoder.describe(self.layout, self.max_weight)),
            *(f"  trust     {line}" for line in self.protocol.describe(self)),
            f"  bytes     {sum(cost.up.values()):,} up and {sum(cost.down.values()):,} down a client and session,"
            f" at {self.max_clients} clients",
            f"  trust     to learn one client's update would take {cost.collusion}",
            f"            {'post-quantum confidentiality' if cost.post_quantum else 'not post-quantum'}",
        ]
        return "\n".join(lines)


def _segment(found: SegmentLike) -> Segment:
    """What an encoding gives as a segment, as plain integers."""
    length, bound = whole(found.length), whole(found.bound)
    modulus = None if found.modulus is None else whole(found.modulus) or 0
    if (
        length is None
        or bound is None
        or not 0 <= length <= MAX_SIZE
        or bound < 0
        or (modulus is not None and modulus < 1)
    ):
        raise ConfigError(
            f"got a segment of length={shown(found.length)}, bound={shown(found.bound)} and "
            f"modulus={shown(found.modulus)}; expected integers of 0 or more, and a modulus above 0 or None"
        )
    return Segment(length, bound, modulus)


def _integer(name: str, value: object, least: int, most: int) -> int:
    number = whole(value)
    if number is None or not least <= number <= most:
        raise ConfigError(f"got {name}={shown(value)}; expected an integer from {least} to {most}")
    return number


class _Classes(dict[str, type]):
    """Classes by name; ours are imported when a task names them."""

    def get(self, name: str, default: type | None = None) -> type | None:  # type: ignore[override]
        if name not in self and name in TASK_CLASSES:
            self[name] = getattr(importlib.import_module(TASK_CLASSES[name]), name)
        found = super().get(name, default)
        return found if found is None or dataclasses.is_dataclass(found) else None
