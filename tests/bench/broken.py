"""Protocols that are wrong on purpose, each in one thing; the benchmarks must not print a row of theirs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from secagg._server import Step
from secagg.protocols.clear import Clear, ClearServer, Round


class OffByOne(ClearServer):
    """Adds one step of the grid to one coordinate, once."""

    def _settle(self) -> None:
        super()._settle()
        self._sums[0][7] += 1

    steps: ClassVar[Mapping[str, Step]] = {
        Round.INPUT: Step(ClearServer._propose, ClearServer._take_input, _settle),
    }


class Forgetful(ClearServer):
    """Leaves one survivor out, and says so."""

    def _take_input(self, envelope, message, payload) -> None:
        if envelope.sender.endswith("2"):
            return
        super()._take_input(envelope, message, payload)

    steps: ClassVar[Mapping[str, Step]] = {
        Round.INPUT: Step(ClearServer._propose, _take_input, ClearServer._settle),
    }


@dataclass(frozen=True)
class ClearOffByOne(Clear):
    name: ClassVar[str] = "ClearOffByOne"
    server: ClassVar = OffByOne


@dataclass(frozen=True)
class ClearForgetful(Clear):
    name: ClassVar[str] = "ClearForgetful"
    server: ClassVar = Forgetful
