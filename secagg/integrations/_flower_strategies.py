"""Which of Flower's strategies do with one reply that holds the weighted mean, and which can't."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

from flwr.serverapp import strategy as strategies
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, Strategy

from secagg.errors import ConfigError

MEAN_WILL_DO = (FedAvg, FedAvgM, FedProx, FedAdagrad, FedAdam, FedYogi)
_AGGREGATE = frozenset(known.aggregate_train for known in MEAN_WILL_DO)
_WEIGHTED_MEAN = FedAvg().train_metrics_aggr_fn  # unless its caller has another

_BOUND = "take FedAvg or one of its kin, and bound what one client can do by the encoding's clip"
_NOISE = "take FedAvg or one of its kin, and a DP encoding in the task (secagg's dp)"
_REFUSED = {
    "Krum": ("compares the updates one by one", _BOUND),
    "MultiKrum": ("compares the updates one by one", _BOUND),
    "Bulyan": ("compares the updates one by one", _BOUND),
    "FedMedian": ("sorts the updates' coordinates", _BOUND),
    "FedTrimmedAvg": ("sorts the updates' coordinates", _BOUND),
    "QFedAvg": ("weighs each update by its own loss", "take FedAvg, and have the app scale its update"),
    "FedXgbBagging": ("collects every client's trees", "none of secagg's protocols carries trees"),
    "FedXgbCyclic": ("passes one client's trees on to the next", "none of secagg's protocols carries trees"),
    "DifferentialPrivacyServerSideFixedClipping": ("clips each update on the server", _NOISE),
    "DifferentialPrivacyServerSideAdaptiveClipping": ("clips each update on the server", _NOISE),
    "DifferentialPrivacyClientSideFixedClipping": ("counts replies to scale its noise", _NOISE),
    "DifferentialPrivacyClientSideAdaptiveClipping": ("reads one bit of each client's", _NOISE),
}


def running_strategy() -> Any:
    """The strategy whose ``start`` is running, or None: a grid isn't told whom it serves.

    Where strategies wrap each other it is the outermost.
    """
    found = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_varnames[:1] == ("self",) and isinstance(own := frame.f_locals.get("self"), Strategy):
            found = own
        frame = frame.f_back
    return found


def check_strategy(strategy: Any, own: Iterable[type | None], *, required: bool = True) -> Any:
    """``strategy`` itself; ``ConfigError`` if the weighted mean alone won't do for it, or nobody knows.

    ``own`` are classes that their author vouches for, with what was put into their instances, and None among them
    for a loop without a strategy.
    """
    allowed = tuple(own)
    if strategy is None:
        if required and None not in allowed:
            raise ConfigError(
                "got a train broadcast from outside of any strategy's start; if your loop does with one reply that "
                "holds the weighted mean, say so: SecureGrid(..., strategies=[None])"
            )
        return None
    kind = type(strategy)
    if kind in allowed:  # the class itself: its author can't speak for those that others derive from it
        return strategy
    for base in kind.__mro__:
        reason = _REFUSED.get(base.__name__)
        if reason is not None and base is getattr(strategies, base.__name__, None):
            raise ConfigError(f"{kind.__name__} {reason[0]}, which nobody gets to see here; {reason[1]}")
    vouched = f"say so: SecureGrid(..., strategies=[{kind.__name__}])"
    if kind.aggregate_train not in _AGGREGATE:
        names = ", ".join(known.__name__ for known in MEAN_WILL_DO)
        raise ConfigError(
            f"got strategy {kind.__name__}, of which nobody knows whether the weighted mean will do; expected one "
            f"that aggregates as {names} do; if it does, {vouched}"
        )
    if getattr(strategy.aggregate_train, "__func__", None) is not kind.aggregate_train:
        raise ConfigError(
            f"got a {kind.__name__} with an aggregate_train of its own, of which nobody knows whether the weighted "
            f"mean will do; if it does, {vouched}"
        )
    if getattr(strategy, "train_metrics_aggr_fn", _WEIGHTED_MEAN) is not _WEIGHTED_MEAN:
        raise ConfigError(
            f"got a {kind.__name__} with a train_metrics_aggr_fn, which would be given one reply with the weighted "
            f"means as if it were a client's; drop it, or, if it does with that, {vouched}"
        )
    return strategy
