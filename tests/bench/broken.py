"""Protocols with one deliberate error each. The benchmarks must not print a row for them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from secagg.protocols.clear import Clear, ClearServer, Round
from secagg.roles.server import Step


class OffByOne(ClearServer):
    """Adds one step of the grid to one coordinate, once."""

    def _settle(self) -> None:
        super()._settle()
        self.context.sums[0][7] += 1

    steps: ClassVar[Mapping[str, Step]] = {
        Round.INPUT: Step(ClearServer.propose, ClearServer._take_input, _settle),
    }


class Forgetful(ClearServer):
    """Leaves one survivor out of the sum and of the list."""

    def _take_input(self, envelope, message, payload) -> None:
        if not envelope.sender.endswith("2"):
            super()._take_input(envelope, message, payload)

    def _settle(self) -> None:
        super()._settle()
        self.context.state.survivors = [party for party in self.context.state.survivors if not party.endswith("2")]

    steps: ClassVar[Mapping[str, Step]] = {
        Round.INPUT: Step(ClearServer.propose, _take_input, _settle),
    }


class Rounding(ClearServer):
    """Returns the exact sum, and a mean that does not belong to it."""

    def _decode(self):
        outcome = super()._decode()
        return replace(outcome, mean=outcome.mean.round(4))


@dataclass(frozen=True)
class ClearOffByOne(Clear):
    name: ClassVar[str] = "ClearOffByOne"
    server: ClassVar = OffByOne


@dataclass(frozen=True)
class ClearForgetful(Clear):
    name: ClassVar[str] = "ClearForgetful"
    server: ClassVar = Forgetful


@dataclass(frozen=True)
class ClearRounding(Clear):
    name: ClassVar[str] = "ClearRounding"
    server: ClassVar = Rounding
