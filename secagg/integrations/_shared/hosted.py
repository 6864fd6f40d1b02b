"""An aggregator's or a decryptor's role behind a function from bytes to bytes; needs no stack."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from secagg import wire
from secagg.errors import ConfigError, shown
from secagg.identity import PartyRole, load_he_key, load_identity, load_roster, load_sealing_key
from secagg.roles.member import Member
from secagg.session import MAX_SESSION_BYTES
from secagg.store import FileLedger
from secagg.table import Proposal
from secagg.task import Task
from secagg.wire import Envelope, Reject

Party = Callable[[bytes], bytes | None]

_NEEDED = {"role", "secagg-key", "secagg-roster", "secagg-dir"}
_KEYS = {"secagg-sealing-key": load_sealing_key, "secagg-he-key": load_he_key}


def hosted(make: Callable[[bytes], Member[Any]]) -> Party:
    """A party for ``parties=``, in this process or behind your endpoint: a function from bytes to bytes or None.

    ``make(session)`` makes the party's role when the server proposes the session of this name, for example by
    ``lambda session: task.aggregator("a1", session=session, identity=..., roster=..., key=..., save=...)``. If
    there are metrics, use the task that :func:`with_metrics` returns. The stores in ``save`` must share one
    ledger, or a server could play a session again and open a second sum; ``ConfigError`` if there is no ledger. A
    :class:`secagg.store.FileStore` holds one session, so include the session in its path.

    The role of the running session stays until the role of another session has accepted its proposal, so forged
    bytes end no session. Threads may share the function; it answers one message at a time.
    """
    if not callable(make):
        raise ConfigError(f"got {shown(make)} for hosted; expected a function that makes the role of a session")
    lock = threading.Lock()
    role: Member[Any] | None = None
    session: bytes | None = None

    def answer(data: bytes) -> bytes | None:
        nonlocal role, session
        with lock:
            proposal = _proposal(data)
            if proposal is None or proposal == session:
                return None if role is None else role.receive(data)
            fresh = make(proposal)
            if fresh.ledger is None:
                raise ConfigError(
                    f"got a role for {fresh.id} without a ledger; pass save= a store that has one, the same for "
                    "all sessions: secagg.store.FileStore(path, ledger=FileLedger(other))"
                )
            reply = fresh.receive(data)
            if reply is not None:  # otherwise the role refused the proposal, and has logged why
                role, session = fresh, proposal
            return reply

    return answer


class HostedRole:
    """A party whose role, keys and folder an operator has set, for the sessions of one task.

    ``settings`` has ``role`` ("aggregator" or "decryptor"), the files ``secagg-key`` and ``secagg-roster``, and
    ``secagg-dir``, a folder for the ledger, which is made if its parent exists. An aggregator also has
    ``secagg-sealing-key``, and a decryptor with a long-lived key ``secagg-he-key``. ``ConfigError`` for other
    settings, for files that can't be read, and for a role that does not fit the task.

    ``roster`` is the digest of its roster. The ledger's file is locked until :meth:`close`.
    """

    def __init__(self, task: Task, party: str, settings: Mapping[str, Any]) -> None:
        check_settings(party, settings)
        named: dict[str, Any] = {
            "identity": load_identity(settings["secagg-key"]),
            "roster": load_roster(settings["secagg-roster"]),
        }
        for name, load in _KEYS.items():
            if name in settings:
                named["key"] = load(settings[name])
        roles = {"aggregator": task.aggregator, "decryptor": task.decryptor}
        role: Callable[..., Member[Any]] = roles[settings["role"]]
        role(party, **named)  # to refuse here what could not answer
        folder = Path(settings["secagg-dir"])
        folder.mkdir(mode=0o700, exist_ok=True)
        self.roster = named["roster"].digest
        self._ledger = FileLedger(folder / "ledger")
        store = _LedgerOnly(self._ledger)
        self.answer: Party = hosted(lambda session: role(party, session=session, save=store, **named))

    def close(self) -> None:
        """Release the ledger; the role answers nothing more."""
        self._ledger.close()


def check_settings(party: str, settings: Any) -> None:
    """``ConfigError`` unless these are the settings of a party that :class:`HostedRole` takes."""
    known = _NEEDED | set(_KEYS)
    if not isinstance(settings, Mapping) or settings.keys() - known or _NEEDED - settings.keys():
        keys = sorted(settings) if isinstance(settings, Mapping) else type(settings).__name__
        raise ConfigError(
            f"got settings {keys} of party {party:.80}; expected {', '.join(sorted(_NEEDED))}, and of "
            f"{', '.join(sorted(_KEYS))} what its role needs"
        )
    if settings["role"] not in (PartyRole.AGGREGATOR, PartyRole.DECRYPTOR):
        raise ConfigError(
            f"got role {settings['role']!r:.40} of party {party:.80}; expected aggregator or decryptor"
        )


def hosting_sites(parties: Any) -> dict[str, str]:
    """The sites that host parties, by the party's id; ``ConfigError`` for what is not names."""
    if parties is None:
        return {}
    if not isinstance(parties, Mapping) or any(type(name) is not str for name in (*parties, *parties.values())):
        raise ConfigError(
            f"got parties={parties!r:.80}; expected the party's id and the name of the site that hosts it, such as "
            "{'dec': 'site-4'}"
        )
    return dict(parties)


class _LedgerOnly:
    """A store that keeps no state, because a hosted role is not restored: its ledger prevents a second answer."""

    def __init__(self, ledger: FileLedger) -> None:
        self.ledger = ledger

    def __call__(self, number: int, state: bytes) -> None:
        pass


def _proposal(data: bytes) -> bytes | None:
    """The name of the session that the server proposes in ``data``; None for any other message."""
    try:
        envelope = Envelope.parse(data, len(data))
        if envelope.sender != wire.SERVER or envelope.kind != Proposal.TYPE:
            return None
        session = envelope.open(Proposal)[0].session
    except Reject:
        return None
    return session if len(session) <= MAX_SESSION_BYTES else None
