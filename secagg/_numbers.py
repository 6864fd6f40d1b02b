"""Convert numbers that callers pass, from Python or NumPy, to Python's own, and tell what class an object has.

The packages dp, he, mpc and secagg each have this module, word for word, because none imports another's
private modules.
"""

from __future__ import annotations

import math
from numbers import Real
from operator import index
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, overload

if TYPE_CHECKING:
    from types import UnionType

    from typing_extensions import TypeIs

T = TypeVar("T")


@overload
def is_a(value: object, kinds: type[T]) -> TypeIs[T]: ...
@overload
def is_a(value: object, kinds: UnionType | tuple[Any, ...]) -> bool: ...
def is_a(value: object, kinds: Any) -> bool:
    """Whether the class of ``value`` is one of ``kinds`` or below it.

    ``isinstance`` also believes ``value.__class__``, which a proxy or a mock answers as it likes, or not at all.
    """
    try:
        return issubclass(type(value), kinds)
    except Exception:  # its metaclass fails
        return False


def whole(value: object) -> int | None:
    """``value`` as an int; None unless it is an integer, such as ``7`` or ``np.int64(7)``. Bools are refused."""
    if is_a(value, bool) or not is_a(value, (SupportsIndex,)):
        return None
    try:
        return index(value)  # type: ignore[arg-type]
    except Exception:  # an array of several values, or an object that only claims to be an integer
        return None


def real(value: object) -> float:
    """``value`` as a float; NaN unless it is a real number, such as ``np.float32(2)``. Bools are refused."""
    if is_a(value, bool) or not is_a(value, (Real,)):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except Exception:  # an integer beyond float64, or an object that only claims to be a number
        return math.nan
