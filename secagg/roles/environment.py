"""What the caller lends a role: one frozen argument, which is never part of the role's saved state."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from secagg._numbers import is_a
from secagg.beacon import Fetch
from secagg.errors import ConfigError, blaming, kind_of, shown
from secagg.identity import Roster
from secagg.store import Ledger, Store


class Budget(Protocol):
    """The total privacy cost that a client allows: a :class:`dp.PrivacyLedger`, in a file if it has to last."""

    def charge(self, release: Any, count: int = 1, *, once: bytes | None = None) -> float:
        """Charge ``release``, ``count`` times, durably, or raise a ``ValueError`` and charge nothing.

        ``release`` is what the encoding's ``release`` returned: for one of ``dp``, a :class:`dp.events.Release`.
        ``once`` (32 bytes) names the charge. A release that was charged under this name before is not charged
        again.
        """
        ...


class Lent(TypedDict, total=False):
    """The keywords of an :class:`Environment`, for calls that pass them on."""

    identity: Ed25519PrivateKey | None
    roster: Roster | None
    save: Store | None
    key: bytes | None
    executor: Executor | None
    clock: Callable[[], float]
    budget: Budget | None
    beacon: Fetch | None
    rng: Callable[[int], bytes]
    ledger: Ledger | None


@dataclass(frozen=True, repr=False)
class Environment:
    """What a role is lent each time it is made or restored.

    ``identity`` is its Ed25519 key. ``roster`` lists everyone enrolled. ``save`` is the store of its state, which
    may have a ledger. ``key`` is the private half of the key that the roster lists besides the identity.
    ``executor`` runs heavy work, by default on threads. ``clock`` returns the time in seconds since 1970.
    ``budget`` is charged for an input with noise. ``beacon`` returns the value of a beacon's round. ``rng`` is the
    source of every seed. ``ledger`` keeps the role from a second, different answer when it is made anew or
    restored; by default it is the store's.
    """

    identity: Ed25519PrivateKey | None = None
    roster: Roster | None = None
    save: Store | None = None
    key: bytes | None = None
    executor: Executor | None = None
    clock: Callable[[], float] = time.time
    budget: Budget | None = None
    beacon: Fetch | None = None
    rng: Callable[[int], bytes] = os.urandom
    ledger: Ledger | None = None

    def __post_init__(self) -> None:
        with blaming(ConfigError, "got arguments of a role that can't be read"):
            self._check()

    @classmethod
    def of(cls, lent: object) -> Environment:
        """``lent`` as an environment, an empty one for None; ``ConfigError`` for anything else."""
        if lent is None:
            return cls()
        if not isinstance(lent, cls):
            raise ConfigError(f"got {shown(lent)} as the environment; expected a secagg.roles.Environment")
        return lent

    def _check(self) -> None:
        """``ConfigError`` for an argument of the wrong kind, even one that this role doesn't use."""
        if self.ledger is None:
            object.__setattr__(self, "ledger", getattr(self.save, "ledger", None))
        for name, fits, expected in (
            ("identity", is_a(self.identity, (Ed25519PrivateKey,)), "what load_identity(path) gives"),
            ("roster", is_a(self.roster, Roster), "what load_roster(path) gives"),
            ("save", callable(self.save), "a store, such as secagg.store.FileStore(path)"),
            (
                "key",
                is_a(self.key, bytes),
                "the bytes of a private key, as load_he_key(path) gives",
            ),
            ("executor", callable(getattr(self.executor, "submit", None)), "an executor of concurrent.futures"),
            ("clock", callable(self.clock), "a function that gives seconds since 1970, such as time.time"),
            ("budget", callable(getattr(self.budget, "charge", None)), "a budget, such as dp.PrivacyLedger"),
            ("beacon", callable(self.beacon), "a function that gives the value of a beacon's round"),
            ("rng", callable(self.rng), "a function that gives so many random bytes, such as os.urandom"),
            ("ledger", callable(getattr(self.ledger, "claim", None)), "a ledger, such as secagg.store.FileLedger"),
        ):
            lent = getattr(self, name)
            if not fits and (lent is not None or name in ("clock", "rng")):
                raise ConfigError(f"got a {kind_of(lent)} as {name}; expected {expected}")  # it may be a secret
