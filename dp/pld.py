"""A tighter ε for Gaussian noise, from the whole privacy loss distribution; by Google's dp-accounting.

Needs ``pip install 'secagg[pld]'``, or ``pip install dp-accounting``, which is imported when used. Integer noise
has no entry there: of sums and vectors of it only the bounds of :mod:`dp.accounting` are known.
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
    """ε at ``delta`` (in (0, 1)) of events and their counts: those of :attr:`dp.accounting.RDPAccountant.events`.

    Gaussian events, Poisson-sampled (under ``"zero-out"``) or not, and compositions of these. With
    ``amplified=False``, against whoever drew the samples. Raises :class:`DPError` for any other event,
    and if dp-accounting is not installed.
    """
    try:
        import dp_accounting
        from dp_accounting.pld import PLDAccountant
    except ImportError as error:
        raise DPError(
            "got no dp-accounting, which this needs: pip install 'secagg[pld]', or pip install dp-accounting"
        ) from error
    check_name("neighbours", neighbours, NEIGHBOURS)
    if not 0 < real(delta) < 1:
        raise DPError(f"got delta={delta!r}; expected a number above 0 and below 1, such as 1e-5")
    relation = dp_accounting.NeighboringRelation
    accountant = PLDAccountant(relation.ADD_OR_REMOVE_ONE if neighbours == "zero-out" else relation.REPLACE_ONE)
    for event, count in events:
        accountant.compose(_theirs(event if amplified else unamplified(event), dp_accounting, neighbours), count)
    return float(accountant.get_epsilon(real(delta)))


def _theirs(event: Event, library: Any, neighbours: Neighbours) -> Any:
    match event:
        case GaussianEvent():
            return library.GaussianDpEvent(event.noise_multiplier)
        case PoissonSampled(rate, GaussianEvent() as inner) if neighbours == "zero-out":
            return library.PoissonSampledDpEvent(rate, _theirs(inner, library, neighbours))
        case SelfComposed():
            return library.SelfComposedDpEvent(_theirs(event.event, library, neighbours), event.count)
        case Composed():
            return library.ComposedDpEvent([_theirs(part, library, neighbours) for part in event.events])
        case _:
            raise DPError(
                f"got {event!r:.200} under {neighbours!r}, of which no loss distribution is known here; "
                "expected Gaussian events, Poisson-sampled under 'zero-out' or not: use RDPAccountant"
            )
