"""A tighter ε for Gaussian noise, from its whole privacy loss distribution, computed by Google's dp-accounting.

This needs ``pip install 'secagg[pld]'`` or ``pip install dp-accounting``, which is imported at the first call.
dp-accounting has no sums or vectors of integer noise: for these, use the bounds of :mod:`dp.accounting`.
"""

from collections.abc import Iterable
from typing import Any

from dp._numbers import real
from dp.accounting import NEIGHBOURS, Neighbours
from dp.errors import DPError
from dp.events import Composed, Event, GaussianEvent, PoissonSampled, SelfComposed, check_name, unamplified


def pld_epsilon(
    events: Iterable[tuple[Event, int]],
    delta: float,
    *,
    neighbours: Neighbours = "zero-out",
    amplified: bool = True,
) -> float:
    """ε at ``delta`` (in (0, 1)) of ``events`` with their counts, as in :attr:`dp.RDPAccountant.events`.

    The events are Gaussian, Poisson-sampled Gaussian (under ``"zero-out"``), or compositions of these.
    ``neighbours`` is as in :class:`dp.RDPAccountant`. ``amplified=False`` returns ε against a party that knows who
    was sampled. Raises :class:`DPError` for any other event, and if dp-accounting is not installed.
    """
    try:
        import dp_accounting
        from dp_accounting.pld import PLDAccountant
    except ImportError as error:
        raise DPError(
            "the package dp-accounting is missing: pip install 'secagg[pld]', or pip install dp-accounting"
        ) from error
    check_name("neighbours", neighbours, NEIGHBOURS)
    if not 0 < real(delta) < 1:
        raise DPError(f"got delta={delta!r}; expected a number above 0 and below 1, such as 1e-5")
    relation = dp_accounting.NeighboringRelation
    accountant = PLDAccountant(relation.ADD_OR_REMOVE_ONE if neighbours == "zero-out" else relation.REPLACE_ONE)
    for event, count in events:
        accountant.compose(_dp_event(event if amplified else unamplified(event), dp_accounting, neighbours), count)
    return float(accountant.get_epsilon(real(delta)))


def _dp_event(event: Event, library: Any, neighbours: Neighbours) -> Any:
    """The event in the classes of dp-accounting."""
    match event:
        case GaussianEvent():
            return library.GaussianDpEvent(event.noise_multiplier)
        case PoissonSampled(rate, GaussianEvent() as inner) if neighbours == "zero-out":
            return library.PoissonSampledDpEvent(rate, _dp_event(inner, library, neighbours))
        case SelfComposed():
            return library.SelfComposedDpEvent(_dp_event(event.event, library, neighbours), event.count)
        case Composed():
            return library.ComposedDpEvent([_dp_event(part, library, neighbours) for part in event.events])
        case _:
            raise DPError(
                f"got {event!r:.200} under {neighbours!r}, whose loss distribution is not known here; expected "
                "Gaussian events, or Poisson-sampled ones under 'zero-out': use RDPAccountant"
            )
