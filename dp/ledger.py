"""A ledger: a privacy budget and what was charged to it, in memory or in a file. It refuses to overspend.

The party that is bound by the budget keeps the ledger: a client for what leaves it, a server for what it
publishes.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dp._checks import check_delta
from dp._files import drop_unfinished, locked, names_of, write_whole
from dp._locks import Turn
from dp._saved import MAX_BYTES, decode_state, encode_state, fields_of
from dp.accounting import DEFAULT_ORDERS, Neighbours, RDPAccountant, check_epsilon
from dp.errors import DPError
from dp.events import TRUSTS, UNITS, Event, Release, Trust, Unit, check_name, to_plain

#: What was charged: each event with how often.
Events = tuple[tuple[Event, int], ...]

_FORMAT = "secagg/v1/dp-ledger"
_PAID_LABEL = b"secagg/v1/dp-paid"
_FIELDS = {"epsilon", "unit", "trust", "accountant", "paid"}
_NAME_BYTES = 32
_MOST_PAID = 256


class BudgetExceeded(DPError):  # noqa: N818 - an event, as in Aborted
    """The release would cost more than is left of the budget. Nothing was charged."""


@dataclass(frozen=True, slots=True)
class Spent:
    """ε at ``delta`` after ``releases`` releases.

    ``epsilon`` is the figure that the budget limits. It is amplified by sampling under central trust only. Under
    the other kinds of trust the server knows who was sampled, and may tell others, so there is no amplification.
    ``epsilon_against_sampler`` never contains amplification.
    """

    epsilon: float
    epsilon_against_sampler: float
    delta: float
    releases: int


class PrivacyLedger:
    """A budget of (``epsilon``, ``delta``) for one unit under one kind of trust. It refuses to exceed the budget.

    - ``unit``: ``"record"`` or ``"client"``; ``trust``: ``"local"``, ``"distributed"`` or ``"central"``
      (:data:`dp.events.Trust`). The ledger refuses a release of another unit or trust, because such figures don't
      add up.
    - ``neighbours`` and ``orders``: as in :class:`dp.RDPAccountant`.
    - Under ``"central"`` trust the server samples and is trusted, so the ledger charges the amplified ε. Under the
      other kinds the server is the adversary, and the ledger charges ε without amplification.

    Charge a release just before the input leaves, and again for each retry. A ledger that the constructor makes is
    in memory, and its caller saves :meth:`to_bytes`. :meth:`open` keeps a ledger in a file and writes each charge
    to the disk before anything can leave. Threads may share both kinds. Processes may share a file. A ledger in
    memory refuses charges in a forked child, which would otherwise spend the budget a second time. Raises
    :class:`DPError` if a field is out of range.
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
        self._paid: tuple[bytes, ...] = ()  # hashes of named releases, which are not charged again
        self._path: Path | None = None
        self._seen: bytes | None = None  # the last content of the file that this ledger read or wrote
        self._turn = Turn()
        self._process = os.getpid()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        epsilon: float | None = None,
        delta: float | None = None,
        *,
        unit: Unit | None = None,
        trust: Trust | None = None,
        neighbours: Neighbours = "zero-out",
        orders: Iterable[int] = DEFAULT_ORDERS,
        create: bool = True,
    ) -> Self:
        """Open the ledger in the file at ``path`` (mode 0600), or create it. Several processes may have it open.

        The first call creates the file and states the whole budget. Later calls may state it again, to compare it
        with the file, or pass ``path`` alone, to take the budget from the file, which then must exist.

        A missing file looks the same whether it was lost or never existed. A call with a whole budget creates it,
        with nothing spent. Where a file must exist already, pass ``create=False``, or ``path`` alone.

        Before :meth:`charge` returns, the charge is on the disk: one process at a time, under a lock on
        ``path``.lock, writes a file beside the ledger, flushes it and renames it over the old one. A new file never
        replaces one that another process created first; for this the file system must have hard links. Charges of
        other processes count from the next charge on; :attr:`spent` is as of this ledger's last charge.

        ``path`` may be a symbolic link, which is followed once. A file with a second name (a hard link) is refused.
        So is a file that lacks charges that this ledger has seen: it is an older copy.

        The file holds :meth:`to_bytes`. To raise the budget while no process has the ledger open, read the file
        with :meth:`from_bytes`, set ``epsilon`` and write it back. Raises :class:`DPError` for a file that is
        damaged, can't be read, holds another budget, or is missing and must not be created.
        """
        # A charge replaces the file, not a link to it: without resolve, two paths of a file would be two accounts.
        place = Path(path).resolve()
        if epsilon is not None and delta is not None and unit is not None and trust is not None:
            ledger = cls(epsilon, delta, unit=unit, trust=trust, neighbours=neighbours, orders=orders)
        elif (epsilon, delta, unit, trust) == (None,) * 4:
            ledger, create = cls._saved(place), False
        else:
            raise DPError("got a part of a budget; expected epsilon, delta, unit and trust, or a path alone")
        ledger._path = place
        with ledger._alone():
            if place.exists():
                ledger._reload()
            elif not create:
                raise _missing(place)
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
        """The ε that is left."""
        return max(0.0, self.epsilon - self.spent)

    def report(self) -> Spent:
        """What was spent: the ε that is charged, and the ε without amplification by sampling."""
        accountant = self._accountant
        return Spent(
            accountant.get_epsilon(amplified=self._amplified),
            accountant.get_epsilon(amplified=False),
            self.delta,
            accountant.num_releases,
        )

    def would_exceed(self, release: Release, count: int = 1) -> bool:
        """Whether :meth:`charge` would refuse ``release`` because of its cost; nothing changes."""
        return not self._after(release, count) <= self.epsilon

    def charge(self, release: Release, count: int = 1, *, once: bytes | None = None) -> float:
        """Charge ``release``, ``count`` times, and return the ε spent in all.

        ``once`` is a name of 32 bytes for what leaves, such as its SHA-256. A second charge of the same release and
        count under the same name costs nothing; any other charge does. The ledger remembers the last 256 names, and
        charges again under a forgotten one.

        Raises :class:`BudgetExceeded` if the charge would exceed the budget, and :class:`DPError` for a release of
        another unit or trust, and for a ledger in memory in a forked child. Nothing is charged then. A ledger in a
        file also raises ``OSError`` if the file can't be written. The file then may hold the charge or not, and the
        caller must not let the input leave.
        """
        if once is not None and (type(once) is not bytes or len(once) != _NAME_BYTES):
            raise DPError(f"got once={once!r:.40}; expected {_NAME_BYTES} bytes, such as a SHA-256")
        if self._path is None and os.getpid() != self._process:
            raise DPError(
                f"got a charge in process {os.getpid()} to a ledger in the memory of process {self._process}; each "
                "process would spend the whole budget: share a file between processes, with PrivacyLedger.open"
            )
        with self._alone():
            if self._path is not None:
                self._reload()
            after = self._after(release, count)
            name = None if once is None else _name_of_charge(once, release, count)
            if name in self._paid:
                return self.spent
            if not after <= self.epsilon:
                spent = self.spent
                raise BudgetExceeded(
                    f"the release would raise epsilon from {spent:.4g} to {after:.4g} (it costs "
                    f"{after - spent:.4g}) at delta {self.delta:g}; the budget is {self.epsilon:.4g}, of which "
                    f"{self.left:.4g} is left: stop here, or agree on a larger budget"
                )
            accountant = self._accountant.copy().compose(release.event, count)
            paid = self._paid if name is None else (*self._paid, name)[-_MOST_PAID:]
            self._keep(accountant, paid, None if self._path is None else self._write(accountant, paid))
            return self.spent

    def to_bytes(self) -> bytes:
        """The state as JSON, after its SHA-256, which reveals accidents only."""
        with self._turn:
            return self._bytes(self._accountant, self._paid)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The ledger that :meth:`to_bytes` wrote as ``data``, in memory; :class:`DPError` for any other bytes."""
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
                    f"add up: keep a ledger for each {what}"
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
        """During the block no other thread charges, and no other process either if there is a file."""
        with self._turn:
            if self._path is None:
                yield
                return
            # A charge replaces the file, so other processes wait for the .lock. If somebody deletes the .lock, a
            # second process gets in. Therefore the file itself is locked too: only the holder replaces it.
            with locked(Path(f"{self._path}.lock"), os.O_CREAT | os.O_NOFOLLOW):
                if not self._path.exists():
                    # If the .lock was deleted, another process may create the file during the block: see _begin.
                    yield
                    return
                with locked(self._path):
                    yield

    def _begin(self) -> None:
        """Create the file, or read the one that another process has created since."""
        try:
            self._seen = self._write(self._accountant, ())
        except FileExistsError:
            self._reload()
        except OSError as error:
            raise DPError(f"the ledger {self._path} can't be created: {error}") from error

    def _reload(self) -> None:
        """Read the file, which other processes may have charged to, and check that it continues this account."""
        assert self._path is not None
        try:
            with self._path.open("rb") as file:
                names = names_of(file.fileno())
                if names > 1:
                    drop_unfinished(self._path, file.fileno())
                    names = names_of(file.fileno())
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        if names > 1:
            raise DPError(
                f"the ledger {self._path} is a file with {names} names (hard links); a charge would change only "
                "one of them: remove the others, and keep backups as copies"
            )
        if data == self._seen:
            return
        saved = self._parsed(self._path, data)
        for what in ("epsilon", "delta", "unit", "trust", "neighbours"):
            kept, stated = getattr(saved, what), getattr(self, what)
            if kept != stated:
                raise DPError(
                    f"got {what}={stated!r} for the ledger {self._path}, which was created with {kept!r}; open it "
                    "with that, or agree on another budget, as PrivacyLedger.open describes"
                )
        if saved._accountant.orders != self._accountant.orders:
            raise DPError(f"got other orders than those of the ledger {self._path}; open it with the same ones")
        if not _extends(saved._accountant.events, self._accountant.events):
            raise DPError(
                f"the ledger {self._path} lacks what was charged to it before, so it is an older copy; restore the "
                "newest copy, or take no further part with these data"
            )
        self._keep(saved._accountant, saved._paid, data)

    @classmethod
    def _saved(cls, path: Path) -> Self:
        """A ledger in memory with what the file at ``path`` holds."""
        if not path.exists():
            raise _missing(path)
        try:
            with path.open("rb") as file:
                return cls._parsed(path, file.read(MAX_BYTES + 1))
        except OSError as error:
            raise _unreadable(path, error) from error

    @classmethod
    def _parsed(cls, path: Path, data: bytes) -> Self:
        """The ledger in ``data``, the content of the file at ``path``."""
        try:
            return cls.from_bytes(data)
        except DPError as error:
            raise DPError(
                f"the ledger {path} is damaged: {error}; what was spent is no longer known: take no further part "
                "with these data"
            ) from error

    def _keep(self, accountant: RDPAccountant, paid: tuple[bytes, ...], seen: bytes | None) -> None:
        self._accountant, self._paid = accountant, paid
        self._seen = seen  # last: after an interruption here, the file is read again

    def _write(self, accountant: RDPAccountant, paid: tuple[bytes, ...]) -> bytes:
        """Write the file; ``FileExistsError`` if there is one that this ledger has not seen."""
        assert self._path is not None
        data = self._bytes(accountant, paid)
        if len(data) > MAX_BYTES:
            raise DPError(
                f"got {len(data)} bytes for ledger {self._path}; expected at most {MAX_BYTES}: fewer events"
            )
        write_whole(self._path, data, new=self._seen is None)
        return data


def _missing(path: Path) -> DPError:
    return DPError(
        f"there is no ledger at {path}, and this call must not create one; what was spent is not known: restore "
        "the newest copy, or take no further part with these data"
    )


def _unreadable(path: Path, error: OSError) -> DPError:
    return DPError(f"the ledger {path} can't be read: {error}; without it nobody knows what was spent")


def _extends(events: Events, known: Events) -> bool:
    """Whether ``events`` begin with the ``known`` ones; only the last known count may have grown."""
    if not known:
        return True
    at = len(known) - 1
    return (
        len(events) > at
        and events[:at] == known[:at]
        and events[at][0] == known[at][0]
        and events[at][1] >= known[at][1]
    )


def _name_of_charge(name: bytes, release: Release, count: int) -> bytes:
    """SHA-256 over a name of 32 bytes and the charge under it, so that the name pays for no other charge."""
    event = json.dumps([to_plain(release.event), count], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(_PAID_LABEL + name + event.encode()).digest()


def _names(saved: object) -> tuple[bytes, ...]:
    """The hashes of charges in a saved state; :class:`DPError` for anything else."""
    if not isinstance(saved, list) or len(saved) > _MOST_PAID:
        raise DPError(f"the names are not a list of at most {_MOST_PAID}")
    try:
        names = tuple(map(bytes.fromhex, saved))
    except (TypeError, ValueError) as error:
        raise DPError("a name is not hexadecimal") from error
    if any(len(name) != _NAME_BYTES for name in names):
        raise DPError(f"a name does not have {_NAME_BYTES} bytes")
    return names
