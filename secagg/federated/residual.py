"""What a client did not send yet: the error feedback of a mask that sends some coordinates only."""

from __future__ import annotations

import hashlib

import numpy as np

from secagg import _canonical
from secagg._numbers import is_a
from secagg.errors import ConfigError, EncodingError, shown
from secagg.federated.compression import Vector, finite
from secagg.federated.masks import PublicMask
from secagg.layout import Layout

_MAGIC = b"secagg/v1/residual"


class Residual:
    """What a client held back under a :class:`~secagg.federated.PublicMask`; kept by the client alone.

    At first it is zero::

        vector, kept = residual.compress(mask, update, session)
        client.contribute(vector)
        residual = kept             # once the session has ended well; after an abort, keep the old one

    What was held back is added before anything is clipped, so one client's share in a sum is never larger than the
    encoding allows. What the encoding clips or rounds off a coordinate that is sent is lost, not kept.

    It is an update in the clear, summed over rounds. It never leaves the client. :meth:`erase` forgets it, for a
    client that leaves the run or whose data may no longer be used.
    """

    def __init__(self, layout: Layout) -> None:
        if not is_a(layout, Layout):
            raise ConfigError(f"got {shown(layout)} as layout; expected secagg.Layout.of(model)")
        self.layout = layout
        self._vector: Vector = np.zeros(layout.size)

    @property
    def vector(self) -> Vector:
        """A copy, flat."""
        return self._vector.copy()

    def compress(self, mask: PublicMask, update: object, session: bytes) -> tuple[Vector, Residual]:
        """What the client contributes for ``update`` and what was held back, and the residual after that.

        ``mask`` is the round's map, and ``session`` is the name that the map made. This residual does not change.
        ``ConfigError`` for any map but a public mask: those that are unbiased leave nothing out on average, so what
        is kept would be sent twice; what a pruned model leaves out is never sent. ``EncodingError`` for an update
        of another layout, and for one that is not finite or makes the sum so.
        """
        if not is_a(mask, PublicMask):
            raise ConfigError(
                f"got {shown(mask)}; expected a PublicMask: an unbiased map (RandomK, CountSketch) would send "
                "what a residual keeps twice, and Pruned never sends it"
            )
        if mask.layout != self.layout:
            raise ConfigError("got a mask of another layout than the residual's; start a Residual for each model")
        with np.errstate(all="ignore"):
            total = finite(self.layout, update) + self._vector
        if not np.isfinite(total).all():
            raise EncodingError(
                "got an update that is not finite with what was held back; leave it out, or start a new Residual"
            )
        sent = mask.coordinates(session)
        vector = total[sent]
        total[sent] = 0.0
        after = Residual(self.layout)
        after._vector = total
        return vector, after

    def erase(self) -> None:
        """Forget what was held back: zeros, in this object's memory too. Saved bytes are the caller's to delete."""
        self._vector[:] = 0.0

    def to_bytes(self) -> bytes:
        """For the client's own disk: as secret as the update."""
        return _header(self.layout) + self._vector.astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, layout: Layout) -> Residual:
        """The residual that :meth:`to_bytes` wrote as ``data``, for a model of this ``layout``.

        ``ConfigError`` for another layout, another length, or values that are not finite.
        """
        restored = cls(layout)
        plain, header = _canonical.plain_bytes(data, "a residual"), _header(layout)
        if len(plain) != len(header) + 8 * layout.size or not plain.startswith(header):
            raise ConfigError("got bytes that are not the residual of this layout; expected what to_bytes() gave")
        vector = np.frombuffer(plain, "<f8", offset=len(header)).astype(np.float64)
        if not np.isfinite(vector).all():
            raise ConfigError("got a residual that is not finite; start a new one")
        restored._vector = vector
        return restored

    def __repr__(self) -> str:  # what it holds is secret
        return f"<Residual of {self.layout.size:,} coordinates>"


def _header(layout: Layout) -> bytes:
    return _MAGIC + hashlib.sha256(_canonical.encode(layout)).digest()
