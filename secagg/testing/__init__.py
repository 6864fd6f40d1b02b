"""For the tests of protocols, ours and anyone's: :func:`check_protocol`, in the manner of check_estimator.

It plays whole sessions with every party of the roster in this process and knows nothing of a
protocol but its table, its cost and the bytes between the parties. It needs neither pytest nor
hypothesis. All that is drawn here is drawn from seeds: nothing of this belongs into a deployment.
"""

from collections.abc import Mapping

from secagg.beacon import Fetch
from secagg.errors import ConfigError
from secagg.protocols.base import AggregationProtocol
from secagg.testing._checks import CHECKS
from secagg.testing._material import Broken, rng_for_tests
from secagg.testing._session import cast

__all__ = ["CHECKS", "ProtocolCheckError", "check_protocol", "rng_for_tests"]


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
    many of other roles as it states in ``others``. ``beacon`` gives the value of a round of its beacon, if
    it has one. Identities are drawn where a server can't be made without a roster. A check named in
    ``expected_failed_checks`` (name to reason) has to fail. Raises
    :class:`ProtocolCheckError` for the first check that fails, and ``ConfigError`` if no
    ``min_survivors`` up to ``clients`` is accepted.
    """
    expected = dict(expected_failed_checks or {})
    if unknown := sorted(set(expected) - set(CHECKS)):
        raise ConfigError(f"got unknown checks {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    casting = cast(protocol, clients, beacon)
    for name, check in CHECKS.items():
        try:
            check(casting)
        except Broken as broken:
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
