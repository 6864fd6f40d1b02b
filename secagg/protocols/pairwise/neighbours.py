"""The graph of one session: which clients share masks and hold each other's shares, and its numbers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from mpc import graph


@dataclass(frozen=True)
class Shape:
    """The numbers of a graph over ``nodes`` clients; each party computes them and takes them from no message.

    ``degree`` neighbours for each client, ``threshold`` shares to rebuild a secret, ``quorum``
    signatures under a survivor list (0: nobody signs). Of each ``window`` consecutive places on the
    ring (0: not checked) more than ``window_floor`` must have survived.
    """

    nodes: int
    degree: int
    threshold: int
    quorum: int
    window: int = 0
    window_floor: int = 0

    @property
    def complete(self) -> bool:
        """Whether everyone is everyone's neighbour."""
        return self.degree == self.nodes - 1


class Graph:
    """The neighbours of each client of U1; on a sparse graph the ring is drawn from ``seed`` (32 bytes).

    The holders of a client's shares are its neighbours, on the complete graph the client itself
    too; being a neighbour is mutual, so they are also those whose shares it holds.
    """

    def __init__(self, u1: Sequence[str], shape: Shape, seed: bytes) -> None:
        self.shape = shape
        self._u1 = u1
        self._seed = seed
        self._near: dict[str, list[str]] = {}
        self._points: dict[str, list[int]] = {}

    @cached_property
    def _ring(self) -> graph.Ring:
        return graph.draw_ring(self.shape.nodes, self._seed)

    def holders(self, party: str) -> Sequence[str]:
        """The clients that hold the shares of ``party``, and whose shares it holds; sorted."""
        if self.shape.complete:
            return self._u1
        if party not in self._near:
            around = self._ring.neighbours(bisect_left(self._u1, party), self.shape.degree)
            self._near[party] = [self._u1[node] for node in around]
        return self._near[party]

    def neighbours(self, party: str) -> Sequence[str]:
        """The clients that share a mask with ``party``; sorted."""
        holders = self.holders(party)
        return [other for other in holders if other != party] if self.shape.complete else holders

    def point(self, dealer: str, holder: str) -> int:
        """The point at which ``dealer`` evaluates its polynomials for ``holder``: its place there, plus one."""
        return bisect_left(self.holders(dealer), holder) + 1

    def points(self, holder: str) -> list[int]:
        """:meth:`point` for each of the dealers ``holders(holder)`` and this holder, in their order."""
        place = bisect_left(self._u1, holder)
        if self.shape.complete:
            return [place + 1] * len(self._u1)
        if holder not in self._points:
            self._points[holder] = [rank + 1 for rank in self._ring.ranks(place, self.shape.degree)]
        return self._points[holder]

    def is_cut(self, survivors: Collection[str]) -> bool:
        """Whether some window of the ring has so few survivors that all of them may be corrupt."""
        if not self.shape.window:
            return False
        inside = set(survivors)
        left = self._ring.least_in_window([party in inside for party in self._u1], self.shape.window)
        return left <= self.shape.window_floor
