"""For the tests of protocols, ours and anyone's.

:func:`check_protocol` holds a protocol to what every protocol promises, as scikit-learn's ``check_estimator`` does
for estimators. It runs whole sessions with every party of the roster in this process. All that it knows of a
protocol is its table, its cost and the bytes between the parties.

:class:`Session` is one such session, to write further tests with: every message passes hooks, parties fall
silent and are restored. :func:`parties_for` enrols the parties.

Nothing here needs pytest or hypothesis. All randomness comes from seeds, so nothing here belongs in a deployment.
"""

from collections.abc import Mapping

from secagg.beacon import Fetch
from secagg.errors import ConfigError
from secagg.protocols.base import AggregationProtocol
from secagg.testing._checks import CHECKS
from secagg.testing._material import (
    Integers,
    MemoryStore,
    RequirementError,
    clock_for_tests,
    require,
    rng_for_tests,
)
from secagg.testing._parties import Parties, parties_for, roles_of
from secagg.testing._session import Session

__all__ = [
    "CHECKS",
    "Integers",
    "MemoryStore",
    "Parties",
    "ProtocolCheckError",
    "RequirementError",
    "Session",
    "check_protocol",
    "clock_for_tests",
    "parties_for",
    "require",
    "rng_for_tests",
    "roles_of",
]


class ProtocolCheckError(AssertionError):
    """A protocol that breaks its contract: which ``check`` saw it, what was ``expected``, what was ``got``."""

    def __init__(self, check: str, expected: str, got: str) -> None:
        super().__init__(f"{check}: expected {expected}; got {got}")
        self.check, self.expected, self.got = check, expected, got


def check_protocol(
    protocol: AggregationProtocol,
    *,
    clients: int = 5,
    beacon: Fetch | None = None,
    expected_failed_checks: Mapping[str, str] | None = None,
) -> list[str]:
    """Hold ``protocol`` to what every protocol promises; returns the names of the checks that ran.

    ``clients`` take part, under the least ``min_survivors`` from 2 on that the protocol accepts, with as
    many of other roles as it states in ``party_counts``. ``beacon`` gives the value of a round of its beacon, if
    it has one. Identities are drawn where a server can't be made without a roster. A check named in
    ``expected_failed_checks`` (name to reason) has to fail. Raises
    :class:`ProtocolCheckError` for the first check that fails, and ``ConfigError`` if no
    ``min_survivors`` up to ``clients`` is accepted.
    """
    expected = dict(expected_failed_checks or {})
    if unknown := sorted(set(expected) - set(CHECKS)):
        raise ConfigError(f"got unknown checks {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    parties = parties_for(protocol, clients, beacon)
    for name, check in CHECKS.items():
        try:
            check(parties)
        except RequirementError as broken:
            failure = ProtocolCheckError(name, *broken.args)
        except Exception as error:
            failure = ProtocolCheckError(name, "no exception to escape", f"{type(error).__name__}: {error}")
            failure.__cause__ = error
        else:
            if name in expected:
                raise ProtocolCheckError(name, f"a failure ({expected[name]})", "none: take it off the list")
            continue
        if name not in expected:
            raise failure
    return list(CHECKS)
