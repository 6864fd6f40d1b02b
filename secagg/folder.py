"""A party's folder: its ledger, and a file for the state of each session that is not over."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from mpc.keys import encode_parts
from secagg.errors import Aborted, ConfigError, LocalProtocolError
from secagg.identity import check_party_id
from secagg.roles.client import Client
from secagg.roles.environment import Lent
from secagg.roles.listener import Aggregator, Decryptor
from secagg.roles.member import Member
from secagg.roles.server import Server
from secagg.session import check_session
from secagg.store import FileLedger, FileStore

if TYPE_CHECKING:
    from secagg.task import Task

#: Any role.
AnyRole = TypeVar("AnyRole", bound="Member[Any] | Server[Any]")
#: Any role but the server.
AnyMember = TypeVar("AnyMember", bound=Member[Any])

_NAME = re.compile(r"[0-9a-f]{16}-([0-9a-f]{64})\.")
_SERVER = "server"  # no party has this id


class PartyFolder:
    """What one party keeps on its disk: a ledger for as long as it is enrolled, and states until sessions are over.

    ``folder.client(task, "c1", session=...)`` returns the client that this folder has a state of, else a new one.
    So a process that was killed goes on by the same call. The same holds for ``server``, ``aggregator`` and
    ``decryptor``. The folder (mode 0700) is made if it does not exist. It holds the file ``ledger``, which is
    locked as long as this object is open, and the folder ``sessions``.

    A state holds secrets, and must go when its session is over; but a party whose last answer was lost on the way
    must be able to repeat it, and a server must be able to give its outcome again. So a state stays until
    :meth:`forget`, which the end of a :meth:`forgetting` block calls. The ledger then notes that the session is
    over, and the folder refuses to make a role for it again, because a new one could not repeat what the old one
    said. What a party leaves behind in a session that never ended is deleted when a role of its next session under
    the same task is made.

    Any thread may call any method. Don't restore a ledger from a backup: enrol the party again, with a new key.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the folder ``path``, and lock it.

        ``ConfigError`` if it can't be made or used, is open already, or has states of sessions and no ledger.
        """
        self._path = Path(path).expanduser()
        self._sessions = self._path / "sessions"
        _make(self._path)
        _make(self._sessions)
        check_ledger(self._path, "sessions/*")
        self.ledger = FileLedger(self._path / "ledger")
        self._lock = threading.RLock()
        self._in_use: weakref.WeakValueDictionary[bytes, Any] = weakref.WeakValueDictionary()
        for file in self._sessions.iterdir():
            if self._entry_in(file.name) in self.ledger:  # a crash came between note and deletion
                file.unlink()

    def client(self, task: Task, party_id: str, *, session: bytes, **lent: Unpack[Lent]) -> Client[Any]:
        """The client of ``session``: the one in use, else restored from its state, else new.

        ``party_id`` is its id, and ``lent`` are the arguments of :meth:`secagg.Task.client`, without ``save``.
        Raises ``LocalProtocolError`` if the session is over for this party, and ``ConfigError`` for a state that is
        damaged or doesn't fit.
        """
        return self._member(task, party_id, session, lent, task.client, task.restore_client)

    def aggregator(self, task: Task, party_id: str, *, session: bytes, **lent: Unpack[Lent]) -> Aggregator[Any]:
        """The aggregator of ``session``; see :meth:`client`. ``party_id`` is its id."""
        return self._member(task, party_id, session, lent, task.aggregator, task.restore_aggregator)

    def decryptor(self, task: Task, party_id: str, *, session: bytes, **lent: Unpack[Lent]) -> Decryptor[Any]:
        """The decryptor of ``session``; see :meth:`client`. ``party_id`` is its id."""
        return self._member(task, party_id, session, lent, task.decryptor, task.restore_decryptor)

    def server(self, task: Task, cohort: Iterable[str], *, session: bytes, **lent: Unpack[Lent]) -> Server[Any]:
        """The server of ``session``; see :meth:`client`. A restored server keeps the cohort that it was made with.

        ``lent`` are the arguments of :meth:`secagg.Task.server`, without ``save``.
        """
        return self._role(
            task,
            _SERVER,
            check_session(session),
            lent,
            lambda save: task.server(cohort, session=session, save=save, **lent),  # type: ignore[misc]
            task.restore_server,
        )

    def sessions(self, task: Task, party_id: str) -> list[bytes]:
        """The names of the sessions of which this folder has a state of ``party_id``, sorted.

        The id of a server is ``"server"``. A party that starts again goes on with these sessions: the server may
        still ask it.
        """
        with self._lock:
            found = self._sessions.glob(f"{_group(task, party_id)}-*.session")
            names = [path.read_bytes() for path in found if path.with_suffix(".state").exists()]
        return sorted(name for name in names if not self.is_over(task, party_id, name))

    def is_over(self, task: Task, party_id: str, session: bytes) -> bool:
        """Whether the session is over here for the party ``party_id``; the id of a server is ``"server"``."""
        return _entry(task, party_id, session) in self.ledger

    def forget(self, role: Member[Any] | Server[Any]) -> None:
        """Note that the session is over for ``role``, then delete its state. The role saves nothing any more.

        Call it when the server has said that the session is over, or when the outcome is where it belongs; or
        earlier, to leave the session out. ``LocalProtocolError`` for a role that is not of this folder.
        """
        store = role.context.environment.save
        party = role.id if isinstance(role, Member) else _SERVER
        if not isinstance(store, _SessionStore) or store.folder is not self:
            raise LocalProtocolError("got a role that this folder did not make; delete the state where it is kept")
        with self._lock:
            self._end(_entry(role.context.task, party, store.session))
            store.delete()

    @contextmanager
    def forgetting(self, role: AnyRole) -> Iterator[AnyRole]:
        """A block that ends in :meth:`forget` if the session is over by then; use it as ``with ... as role``.

        It is over if the role is finished (a server: has its outcome), or ``Aborted`` leaves the block. After any
        other exception, and for a role that is in the middle of its session, the state stays.
        """
        try:
            yield role
        except Aborted:
            self.forget(role)
            raise
        if role.finished if isinstance(role, Member) else role.outcome is not None or role.aborted:
            self.forget(role)

    def close(self) -> None:
        """Release the ledger and its lock, as the end of a ``with`` block does. States stay where they are."""
        self.ledger.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _member(
        self,
        task: Task,
        party: str,
        session: bytes,
        lent: Lent,
        make: Callable[..., AnyMember],
        restore: Callable[..., AnyMember],
    ) -> AnyMember:
        named = check_session(session)
        return self._role(
            task,
            check_party_id(party),
            named,
            lent,
            lambda save: make(party, session=named, save=save, **lent),
            restore,
        )

    def _role(
        self,
        task: Task,
        party: str,
        session: bytes,
        lent: Lent,
        make: Callable[[FileStore], AnyRole],
        restore: Callable[..., AnyRole],
    ) -> AnyRole:
        if surplus := lent.keys() & {"save", "ledger"}:
            raise ConfigError(f"got {' and '.join(sorted(surplus))}=, which the folder provides; leave it out")
        entry = _entry(task, party, session)
        with self._lock:
            if entry in self.ledger:
                raise LocalProtocolError(
                    f"got session {session!r:.80}, which is over for {party} here; another aggregation needs a new "
                    "session name"
                )
            in_use: AnyRole | None = self._in_use.get(entry)
            if in_use is not None:
                return in_use
            path = self._sessions / f"{_group(task, party)}-{entry.hex()}.state"
            store = _SessionStore(path, self, session)
            saved = store.load()
            role = make(store) if saved is None else restore(saved, save=store, **lent)
            if saved is None:
                _write(path.with_suffix(".session"), session)
            if saved is None and isinstance(role, Member):
                # Its seed decides how an update is rounded. A client that was killed between the ledger's claim of
                # its update and the save of it would round anew with another seed, and be refused.
                store(0, role.to_bytes())
            self._in_use[entry] = role
            # After a restart, the sessions that go on come one after the other, so only a new one ends the others.
            for file in self._sessions.glob(f"{_group(task, party)}-*") if saved is None else ():
                other = self._entry_in(file.name)
                if other and other != entry and other not in self._in_use:
                    self._end(other)
            return role

    def _end(self, entry: bytes) -> None:
        """Note that a session is over, then delete its files."""
        self.ledger.claim(entry, entry)
        self._in_use.pop(entry, None)
        for file in self._sessions.glob(f"*-{entry.hex()}.*"):
            file.unlink(missing_ok=True)

    @staticmethod
    def _entry_in(name: str) -> bytes:
        """The entry in the name of a session's file; empty for other names."""
        written = _NAME.match(name)
        return bytes.fromhex(written[1]) if written else b""


class _SessionStore(FileStore):
    """The state of one session of a folder."""

    def __init__(self, path: Path, folder: PartyFolder, session: bytes) -> None:
        super().__init__(path, ledger=folder.ledger)
        self.folder, self.session = folder, session


def _entry(task: Task, party: str, session: bytes) -> bytes:
    """The ledger's entry for the end of a session; it is in the name of the session's file too."""
    return hashlib.sha256(encode_parts("secagg/v1/session-over", task.digest, party, session)).digest()


def _group(task: Task, party: str) -> str:
    """The beginning of the names of all files of this party under this task."""
    return hashlib.sha256(encode_parts("secagg/v1/sessions-of", task.digest, party)).hexdigest()[:16]


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def check_ledger(folder: Path, *patterns: str) -> None:
    """``ConfigError`` if a party took part, and its ledger in ``folder`` is gone.

    A file that fits one of ``patterns`` (as of ``Path.glob``) shows that it took part.
    """
    if (folder / "ledger").exists():
        return
    left = next((path for pattern in patterns for path in folder.glob(pattern)), None)
    if left is not None:
        raise ConfigError(
            f"got {folder} with {left.name} and without its ledger, so what this party sent is no longer known; "
            "put the newest ledger back, or enrol the party again, with a new key and an empty folder"
        )


def _make(path: Path) -> None:
    """Make a folder for its owner alone; ``ConfigError`` if that fails, or if others may write to it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"got {path} as a party's folder, which can't be made or read: {error}") from error
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(
            f"got {path} as a party's folder, to which other users may write, and so replace the ledger; make it "
            "this user's own, with mode 0700"
        )
