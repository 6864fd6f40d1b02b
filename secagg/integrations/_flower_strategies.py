"""Which of Flower's strategies work with a single reply that holds the weighted mean, and which don't."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

from flwr.serverapp import strategy as strategies
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Strategy

from secagg.errors import ConfigError

MEAN_SUFFICES = (FedAvg, FedAvgM, FedProx, FedAdagrad, FedAdam, FedYogi)
_AGGREGATE = frozenset(known.aggregate_train for known in MEAN_SUFFICES)
_WEIGHTED_MEAN = FedAvg().train_metrics_aggr_fn  # Flower's default

_BOUND = "use FedAvg or a variant of it, and bound the influence of one client by the encoding's clip"
_NOISE = "use FedAvg or a variant of it, and a DP encoding in the task (secagg's dp)"
_REFUSED = {
    "Krum": ("compares the updates one by one", _BOUND),
    "MultiKrum": ("compares the updates one by one", _BOUND),
    "Bulyan": ("compares the updates one by one", _BOUND),
    "FedMedian": ("sorts the updates' coordinates", _BOUND),
    "FedTrimmedAvg": ("sorts the updates' coordinates", _BOUND),
    "QFedAvg": ("weighs each update by its own loss", "use FedAvg, and scale the update in the app"),
    "FedXgbBagging": ("collects every client's trees", "none of secagg's protocols carries trees"),
    "FedXgbCyclic": ("passes one client's trees on to the next", "none of secagg's protocols carries trees"),
    "DifferentialPrivacyServerSideFixedClipping": ("clips each update on the server", _NOISE),
    "DifferentialPrivacyServerSideAdaptiveClipping": ("clips each update on the server", _NOISE),
    "DifferentialPrivacyClientSideFixedClipping": ("counts replies to scale its noise", _NOISE),
    "DifferentialPrivacyClientSideAdaptiveClipping": ("reads one bit of each client", _NOISE),
}


def running_strategy() -> Any:
    """The strategy whose ``start`` is running, or None. Flower does not tell a grid, so this reads the call stack.

    If strategies wrap each other, it is the outermost.
    """
    outermost = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",) and isinstance(own := frame.f_locals.get("self"), Strategy):
            outermost = own
        frame = frame.f_back
    return outermost


def check_strategy(strategy: Any, own: Iterable[type | None], *, required: bool = True) -> Any:
    """``strategy`` itself; ``ConfigError`` unless the weighted mean is known to be enough for it.

    ``own`` are classes that their author declares to work, whatever was set on their instances. None in ``own``
    allows a loop without a strategy.
    """
    allowed = tuple(own)
    if strategy is None:
        if required and None not in allowed:
            raise ConfigError(
                "got a train broadcast from outside of any strategy's start; if your loop works with one reply "
                "that holds the weighted mean, declare it: SecureGrid(..., strategies=[None])"
            )
        return None
    kind = type(strategy)
    if kind in allowed:  # not its subclasses: their authors must declare them
        return strategy
    for base in kind.__mro__:
        reason = _REFUSED.get(base.__name__)
        if reason is not None and base is getattr(strategies, base.__name__, None):
            raise ConfigError(f"{kind.__name__} {reason[0]}, but here nobody sees single updates; {reason[1]}")
    declare = f"declare it: SecureGrid(..., strategies=[{kind.__name__}])"
    if kind.aggregate_train not in _AGGREGATE:
        names = ", ".join(known.__name__ for known in MEAN_SUFFICES)
        raise ConfigError(
            f"got strategy {kind.__name__}, which may need more than the weighted mean; expected one that "
            f"aggregates as {names} do; if it needs the mean only, {declare}"
        )
    if getattr(strategy.aggregate_train, "__func__", None) is not kind.aggregate_train:
        raise ConfigError(
            f"got a {kind.__name__} with an aggregate_train of its own, which may need more than the weighted "
            f"mean; if it does not, {declare}"
        )
    if getattr(strategy, "train_metrics_aggr_fn", _WEIGHTED_MEAN) is not _WEIGHTED_MEAN:
        raise ConfigError(
            f"got a {kind.__name__} with a train_metrics_aggr_fn, which would get one reply with the weighted "
            f"means in place of the clients' replies; drop it, or, if it works with that, {declare}"
        )
    return strategy
