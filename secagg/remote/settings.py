"""What a party may set when it connects, and what it may use of one session after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, TypedDict, Unpack

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg._numbers import is_a, whole
from secagg._rounds import UPLOADS_OF_A_MODEL
from secagg.api.routes import LONGEST_WAIT
from secagg.beacon import Fetch
from secagg.errors import ConfigError, blaming, shown
from secagg.roles.environment import Budget

Path = str | os.PathLike[str]


class Event(NamedTuple):
    """Something that happened, for ``on_event``.

    ``what`` is ``offered``, ``accepted``, ``declined``, ``sent``, ``retry``, ``ended`` or ``roster``. ``session``
    is the session in which it happened, empty if it was in none, and ``details`` are further facts by name.
    """

    what: str
    session: str
    details: Mapping[str, Any]


class Progress(NamedTuple):
    """How far an upload or the download of a model has come.

    ``what`` is its name, ``done`` the number of bytes so far, and ``total`` the number of bytes in all.
    """

    what: str
    done: int
    total: int


class Options(TypedDict, total=False):
    """The keywords of :func:`secagg.connect`; :class:`Settings` describes them."""

    identity: Path | Ed25519PrivateKey | None
    key: Path | bytes | None
    token: Path | None
    budget: Budget | None
    executor: Executor | None
    beacon: Fetch | None
    known: tuple[type, ...]
    wait: float
    once: bool
    may_run: Callable[[], bool] | None
    progress: bool | Callable[[Progress], None]
    on_event: Callable[[Event], None] | None
    max_uploads_per_model: int
    most_model_bytes: int | None
    proxy: str | None
    trust_env: bool


@dataclass(frozen=True, repr=False)
class Settings:
    """How a party connects.

    ``identity`` is its Ed25519 key or the path of it; by default ``identity.pem`` or ``ID.pem`` in the folder.
    ``key`` is the other private key that its role has, or the path of it; by default the file in the folder that
    ``secagg keygen`` writes. ``token`` is the path of the join token where parties have no identities; by default
    ``token`` in the folder. ``budget``, ``executor`` and ``beacon`` are lent to every role: see
    :meth:`secagg.Task.client`. ``known`` are the classes of protocols and encodings of your own.

    ``wait`` is how many seconds the service may hold a poll back, up to 25. 0 asks it to answer at once, for
    devices that poll once a minute. ``once`` ends when there is nothing to do now. ``may_run`` is asked before an
    offer is taken up; while it returns False (on battery, in use), offers are declined. ``max_uploads_per_model``
    (1 or 2) is how many sessions over one model get an upload, whatever the service says. ``most_model_bytes``
    caps a model; by default it is what the task's layout needs.

    ``progress`` is called as bytes move; True draws a bar with rich. ``on_event`` is called for each event.
    ``proxy`` is the URL of a proxy; ``trust_env=False`` ignores the environment's,
    which never counts for a service on this machine without TLS.
    """

    identity: Path | Ed25519PrivateKey | None = None
    key: Path | bytes | None = None
    token: Path | None = None
    budget: Budget | None = None
    executor: Executor | None = None
    beacon: Fetch | None = None
    known: tuple[type, ...] = ()
    wait: float = LONGEST_WAIT
    once: bool = False
    may_run: Callable[[], bool] | None = None
    progress: bool | Callable[[Progress], None] = False
    on_event: Callable[[Event], None] | None = None
    max_uploads_per_model: int = UPLOADS_OF_A_MODEL
    most_model_bytes: int | None = None
    proxy: str | None = None
    trust_env: bool = True

    def __post_init__(self) -> None:
        with blaming(ConfigError, "got settings that can't be read"):
            if not 0 <= float(self.wait) <= LONGEST_WAIT:
                raise ConfigError(f"got wait={shown(self.wait)}; expected 0 to {LONGEST_WAIT:g} seconds")
            if whole(self.max_uploads_per_model) not in range(1, UPLOADS_OF_A_MODEL + 1):
                raise ConfigError(
                    f"got max_uploads_per_model={shown(self.max_uploads_per_model)}; expected 1 to "
                    f"{UPLOADS_OF_A_MODEL}"
                )
            if self.most_model_bytes is not None and (whole(self.most_model_bytes) or 0) < 1:
                raise ConfigError(
                    f"got most_model_bytes={shown(self.most_model_bytes)}; expected a number of bytes"
                )
            for name in ("may_run", "on_event", "progress"):
                value = getattr(self, name)
                if not (value is None or is_a(value, bool) or callable(value)):
                    raise ConfigError(f"got {name}={shown(value)}; expected a function")

    @classmethod
    def of(cls, **options: Unpack[Options]) -> Settings:
        """The settings with these keywords as ``options``; ``ConfigError`` for one that doesn't exist."""
        if unknown := sorted(set(options) - {one.name for one in fields(cls)}):
            raise ConfigError(f"got {', '.join(unknown)}, which secagg.connect doesn't take; see its documentation")
        return cls(**options)

    def tell(self, what: str, session: str = "", **details: Any) -> None:
        """Pass an event on; the arguments are the fields of :class:`Event`, with ``details`` as keywords."""
        if self.on_event is not None:
            self.on_event(Event(what, session, details))
