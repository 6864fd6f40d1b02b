"""Who shares masks and shares with whom: the graph of one session, and the numbers that it needs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mpc import graph


@dataclass(frozen=True)
class Shape:
    """What every party computes for itself for ``nodes`` clients, and takes from no message.

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

    @property
    def _ring(self) -> graph.Ring:
        return graph.draw_ring(self.shape.nodes, self._seed)

    def holders(self, party: str) -> Sequence[str]:
        """Who holds the shares that ``party`` deals, and deals to it; sorted."""
        if self.shape.complete:
            return self._u1
        if party not in self._near:
            around = self._ring.neighbours(bisect_left(self._u1, party), self.shape.degree)
            self._near[party] = [self._u1[node] for node in around]
        return self._near[party]

    def neighbours(self, party: str) -> list[str]:
        """With whom ``party`` shares a mask; sorted."""
        return [other for other in self.holders(party) if other != party]

    def point(self, dealer: str, holder: str) -> int:
        """Where polynomials of ``dealer`` are evaluated for ``holder``: its place among the holders, plus one."""
        return bisect_left(self.holders(dealer), holder) + 1

    def is_cut(self, survivors: Collection[str]) -> bool:
        """Whether some window of the ring holds too few survivors for one of them to be honest for sure."""
        if not self.shape.window:
            return False
        inside = set(survivors)
        left = self._ring.least_in_window([party in inside for party in self._u1], self.shape.window)
        return left <= self.shape.window_floor
