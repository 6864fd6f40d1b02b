"""A budget, and what was charged to it: a ledger that refuses to overspend, in memory or in a file.

Whoever is bound by the budget runs this: a client for what leaves it, a server for what it publishes.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dp._checks import check_delta
from dp._files import is_at, locked, names_of
from dp._locks import Turn
from dp._saved import MAX_BYTES, decode_state, encode_state, fields_of
from dp.accounting import DEFAULT_ORDERS, Neighbours, RDPAccountant, check_epsilon
from dp.errors import DPError
from dp.events import TRUSTS, UNITS, Event, Release, Trust, Unit, check_name, to_plain

Events = tuple[tuple[Event, int], ...]

_FORMAT = "secagg/v1/dp-ledger"
_PAID_LABEL = b"secagg/v1/dp-paid"
_FIELDS = {"epsilon", "unit", "trust", "accountant", "paid"}
_NAME_BYTES = 32
_MOST_PAID = 256


class BudgetExceeded(DPError):  # noqa: N818 - what happened, as in Aborted
    """The round would cost more than is left of the budget; nothing was charged."""


@dataclass(frozen=True, slots=True)
class Spent:
    """ε at ``delta`` after ``releases`` releases.

    ``epsilon`` is what the budget is held to: amplified by sampling under central trust alone. Under the others
    the server drew the samples, and whoever it tells has none of the amplification either.
    ``epsilon_against_sampler`` is without it in any case.
    """

    epsilon: float
    epsilon_against_sampler: float
    delta: float
    releases: int


class PrivacyLedger:
    """A budget of (``epsilon``, ``delta``) for one unit under one trust model; it refuses what would exceed it.

    - ``unit``: ``"record"`` or ``"client"``; ``trust``: ``"local"``, ``"distributed"`` or ``"central"``
      (:data:`dp.events.Trust`). A release of another unit or trust is refused: such figures don't add up.
    - Under ``"central"`` trust the server draws the samples and is trusted, so that ε is the amplified one.
      Under the others it is the adversary, and what is charged is ε against the sampler.

    Charge a release when the masked input leaves, and again for a retry. What is made here lives in memory,
    and its caller saves :meth:`to_bytes`; :meth:`open` keeps it in a file, in which a charge stands before
    anything can leave. Threads may share either; processes may share a file, and what is in memory refuses charges
    in a forked child, which would have a budget of its own. Raises :class:`DPError` if a field is out of range.
    """

    def __init__(
        self,
        epsilon: float,
        delta: float,
        *,
        unit: Unit,
        trust: Trust,
        neighbours: Neighbours = "zero-out",
        orders: Iterable[int] = DEFAULT_ORDERS,
    ) -> None:
        check_epsilon("epsilon", epsilon)
        check_name("unit", unit, UNITS)
        check_name("trust", trust, TRUSTS)
        self.epsilon = float(epsilon)
        self.unit: Unit = unit
        self.trust: Trust = trust
        self._delta = check_delta(delta)
        self._accountant = RDPAccountant(delta, neighbours=neighbours, orders=orders)
        self._paid: tuple[bytes, ...] = ()  # hashes of what was charged once and is not charged again
        self._path: Path | None = None
        self._seen: bytes | None = None  # what the file held last
        self._turn = Turn()
        self._process = os.getpid()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        epsilon: float,
        delta: float,
        *,
        unit: Unit,
        trust: Trust,
        neighbours: Neighbours = "zero-out",
        orders: Iterable[int] = DEFAULT_ORDERS,
        create: bool = True,
    ) -> Self:
        """The ledger in the file at ``path`` (mode 0600), or a new one there; several processes may have it open.

        A charge is on the disk before :meth:`charge` returns: written to a file beside it, flushed, and renamed
        over the old one, by one process at a time, under a lock on ``path``.lock. A new file never takes the place
        of one that another process made first; the file system must have hard links for that. What others charged
        counts in the next charge; :attr:`spent` is as of the last one here.

        ``path`` may be a symbolic link, which is followed once. A file with a second name (a hard link) is refused,
        and so is one that lacks what this ledger has seen charged: an older copy was put in its place.

        A file that is gone can't be told from one that never was, and begins a full budget: where there has to be
        one, say ``create=False``.

        The file is :meth:`to_bytes`. A larger budget is agreed on while nobody has it open: read it with
        :meth:`from_bytes`, set ``epsilon``, and write it back. Raises :class:`DPError` for a file that is damaged,
        can't be read, holds another budget than this, or is missing and not to be made.
        """
        ledger = cls(epsilon, delta, unit=unit, trust=trust, neighbours=neighbours, orders=orders)
        # Under two names one file would be two accounts, since a charge replaces the file, not what points to it.
        ledger._path = Path(path).resolve()
        with ledger._alone():
            if ledger._path.exists():
                ledger._reload()
            elif not create:
                raise DPError(
                    f"got no ledger {path} and create=False; what was spent is not known: restore the newest copy, "
                    "or take no further part with these data"
                )
            else:
                ledger._begin()
        return ledger

    @property
    def delta(self) -> float:
        """The budget's δ."""
        return self._delta

    @property
    def neighbours(self) -> Neighbours:
        """The neighbouring relation."""
        return self._accountant.neighbours

    @property
    def spent(self) -> float:
        """The ε charged so far."""
        return self._accountant.get_epsilon(amplified=self._amplified)

    @property
    def left(self) -> float:
        """What is left of ε."""
        return max(0.0, self.epsilon - self.spent)

    def report(self) -> Spent:
        """What was spent: the figure that is charged, and that without sampling."""
        accountant = self._accountant
        return Spent(
            accountant.get_epsilon(amplified=self._amplified),
            accountant.get_epsilon(amplified=False),
            self.delta,
            accountant.num_releases,
        )

    def would_exceed(self, release: Release, count: int = 1) -> bool:
        """Whether :meth:`charge` would refuse ``release`` for its cost; nothing changes."""
        return not self._after(release, count) <= self.epsilon

    def charge(self, release: Release, count: int = 1, *, once: bytes | None = None) -> float:
        """Charge ``release``, ``count`` times, and return the ε spent in all.

        ``once`` names what leaves (32 bytes, such as the SHA-256 of it): the same release, as often, under a name
        that it was charged under before is not charged; any other is. The last 256 are kept; one that is older is
        charged again.

        Raises :class:`BudgetExceeded` where that would be more than the budget, and :class:`DPError` for
        a release of another unit or trust, or for what is in memory in a forked child; nothing is charged then.
        With a file, also ``OSError`` if it can't be written: it then holds the charge, or not, and what it was for
        must not leave.
        """
        if once is not None and (type(once) is not bytes or len(once) != _NAME_BYTES):
            raise DPError(f"got once={once!r:.40}; expected {_NAME_BYTES} bytes, such as a SHA-256")
        if self._path is None and os.getpid() != self._process:
            raise DPError(
                f"got a charge in process {os.getpid()} to a ledger in the memory of process {self._process}; each "
                "would spend the whole budget: PrivacyLedger.open makes one in a file, which processes may share"
            )
        with self._alone():
            if self._path is not None:
                self._reload()
            after = self._after(release, count)
            what = None if once is None else _what(once, release, count)
            if what in self._paid:
                return self.spent
            if not after <= self.epsilon:
                spent = self.spent
                raise BudgetExceeded(
                    f"got a release that would take epsilon from {spent:.4g} to {after:.4g} (it costs "
                    f"{after - spent:.4g}) at delta {self.delta:g}; the budget is {self.epsilon:.4g}, of which "
                    f"{self.left:.4g} is left: stop here, or agree on a larger budget"
                )
            accountant = self._accountant.copy().compose(release.event, count)
            paid = self._paid if what is None else (*self._paid, what)[-_MOST_PAID:]
            self._keep(accountant, paid, None if self._path is None else self._write(accountant, paid))
            return self.spent

    def to_bytes(self) -> bytes:
        """The state as JSON, with a SHA-256 against accident."""
        with self._turn:
            return self._bytes(self._accountant, self._paid)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What :meth:`to_bytes` wrote, in memory; :class:`DPError` on any other bytes."""
        fields = fields_of(decode_state(data), _FORMAT, _FIELDS)
        accountant = RDPAccountant.from_state_dict(fields["accountant"])
        ledger = cls(fields["epsilon"], check_delta(accountant.delta), unit=fields["unit"], trust=fields["trust"])
        ledger._accountant, ledger._paid = accountant, _names(fields["paid"])
        return ledger

    @property
    def _amplified(self) -> bool:
        return self.trust == "central"

    def _after(self, release: Release, count: int) -> float:
        if not isinstance(release, Release):
            raise DPError(f"got a {type(release).__name__}; expected a Release: an event with its unit and trust")
        for what, got, expected in (("unit", release.unit, self.unit), ("trust", release.trust, self.trust)):
            if got != expected:
                raise DPError(
                    f"got a release with {what} {got!r} in a ledger with {what} {expected!r}; such figures don't "
                    "add up: keep a ledger for each"
                )
        return self._accountant.epsilon_after(release.event, count, amplified=self._amplified)

    def _bytes(self, accountant: RDPAccountant, paid: tuple[bytes, ...]) -> bytes:
        return encode_state(
            {
                "format": _FORMAT,
                "epsilon": self.epsilon,
                "unit": self.unit,
                "trust": self.trust,
                "accountant": accountant.state_dict(),
                "paid": [name.hex() for name in paid],
            }
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread charges meanwhile, and where there is a file, no other process."""
        with self._turn:
            if self._path is None:
                yield
                return
            # A charge replaces the file, so others wait at the .lock. Whoever deletes that admits a second one, so
            # the file itself is locked too, under which nobody else replaces it.
            with locked(Path(f"{self._path}.lock"), os.O_CREAT | os.O_NOFOLLOW):
                if not self._path.exists():
                    # Another may begin it meanwhile, under a .lock that was made anew: see _begin.
                    yield
                    return
                with locked(self._path):
                    yield

    def _begin(self) -> None:
        """Make the file, or take in the one that another made meanwhile."""
        try:
            self._seen = self._write(self._accountant, ())
        except FileExistsError:
            self._reload()
        except OSError as error:
            raise DPError(f"got ledger {self._path}, which can't be made: {error}") from error

    def _reload(self) -> None:
        """Take in what the file holds, which other processes may have charged to."""
        assert self._path is not None
        try:
            with self._path.open("rb") as file:
                names = names_of(file.fileno())
                if names > 1:
                    self._drop_unfinished(file.fileno())
                    names = names_of(file.fileno())
                data = file.read(MAX_BYTES + 1)
            if names > 1:
                raise DPError(
                    f"got ledger {self._path}, a file with {names} names (hard links); a charge would stand under "
                    "one of them alone: remove the others, and keep backups as copies"
                )
            if data == self._seen:
                return
        except OSError as error:
            raise DPError(
                f"got ledger {self._path}, which can't be read: {error}; without it nobody knows what was spent"
            ) from error
        try:
            found = self.from_bytes(data)
        except DPError as error:
            raise DPError(
                f"got ledger {self._path}, which is damaged: {error}; what was spent is not known any more: take "
                "no further part with these data"
            ) from error
        for what in ("epsilon", "delta", "unit", "trust", "neighbours"):
            kept, given = getattr(found, what), getattr(self, what)
            if kept != given:
                raise DPError(
                    f"got {what}={given!r} for ledger {self._path}, which was made with {kept!r}; open it with "
                    "that, or agree on another budget as PrivacyLedger.open says"
                )
        if found._accountant.orders != self._accountant.orders:
            raise DPError(f"got other orders than ledger {self._path} was made with; open it with the same")
        if not _extends(found._accountant.events, self._accountant.events):
            raise DPError(
                f"got ledger {self._path}, which lacks what was charged to it before: an older copy was put in its "
                "place; restore the newest one, or take no further part with these data"
            )
        self._keep(found._accountant, found._paid, data)

    def _keep(self, accountant: RDPAccountant, paid: tuple[bytes, ...], seen: bytes | None) -> None:
        self._accountant, self._paid = accountant, paid
        self._seen = seen  # last: whatever interrupts this, the file is read again

    def _write(self, accountant: RDPAccountant, paid: tuple[bytes, ...]) -> bytes:
        """Put these in the file; ``FileExistsError`` if there is one that this ledger has not seen."""
        assert self._path is not None
        data = self._bytes(accountant, paid)
        if len(data) > MAX_BYTES:
            raise DPError(
                f"got {len(data)} bytes for ledger {self._path}; expected at most {MAX_BYTES}: fewer events"
            )
        # A name of its own: another process may be writing too, if the .lock was deleted.
        fresh = self._path.with_name(f"{self._path.name}.{secrets.token_hex(8)}.new")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if self._seen is None:
                os.link(fresh, self._path)
            else:
                fresh.replace(self._path)
        finally:
            fresh.unlink(missing_ok=True)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return data

    def _drop_unfinished(self, descriptor: int) -> None:
        """Remove the second name that a file has until its making is done, and keeps after a crash in between."""
        assert self._path is not None
        for other in self._path.parent.iterdir():
            ours = other.name.startswith(f"{self._path.name}.") and other.suffix == ".new"
            if ours and is_at(descriptor, other):
                other.unlink(missing_ok=True)


def _extends(events: Events, known: Events) -> bool:
    """Whether ``events`` begin with the ``known`` ones; only the count of the last of these may have grown."""
    if not known:
        return True
    at = len(known) - 1
    return (
        len(events) > at
        and events[:at] == known[:at]
        and events[at][0] == known[at][0]
        and events[at][1] >= known[at][1]
    )


def _what(name: bytes, release: Release, count: int) -> bytes:
    """SHA-256 over a name of 32 bytes and what was charged under it, so that it pays for nothing else."""
    event = json.dumps([to_plain(release.event), count], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(_PAID_LABEL + name + event.encode()).digest()


def _names(found: object) -> tuple[bytes, ...]:
    """The names under which something was charged, as they were saved."""
    if not isinstance(found, list) or len(found) > _MOST_PAID:
        raise DPError(f"got names that are no list of at most {_MOST_PAID}")
    try:
        names = tuple(map(bytes.fromhex, found))
    except (TypeError, ValueError) as error:
        raise DPError("got a name that is no hex") from error
    if any(len(name) != _NAME_BYTES for name in names):
        raise DPError(f"got a name that is not of {_NAME_BYTES} bytes")
    return names
