"""All decoders that can be fuzzed with what is installed here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tests.secagg.fuzz.adapters import adapter_decoders
from tests.secagg.fuzz.committees import committee_decoders
from tests.secagg.fuzz.decoders import Decoder, decoders
from tests.secagg.fuzz.files import file_decoders
from tests.secagg.fuzz.lattices import lattice_decoders
from tests.secagg.fuzz.roles import Case


def every_decoder(cases: Sequence[Case], folder: Path) -> list[Decoder]:
    """The decoders; those of a service only where its extra is installed, those of Flower only beside Flower."""
    listed = [*adapter_decoders(folder), *file_decoders(folder)]
    if cases:
        listed += decoders(cases, folder)
    listed += [*lattice_decoders(), *committee_decoders()]
    if find_spec("structlog") is not None:
        from tests.secagg.fuzz.services import service_decoders

        listed += service_decoders(folder)
    return listed
