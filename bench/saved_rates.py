"""Rates in a file: measured once by ``python -m bench rates``, read by ``plan --rates`` and by the chooser's page.

A protocol that sends masked or shared coordinates has two sets of rates: for sums of up to 32 bits, which are kept
in lanes of 32 bits, and for longer ones. Ciphertexts have no lanes, and so one set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import report
from bench.rates import (
    ALL_MASKS,
    HASHED,
    ONE_SHOT,
    OWN_MASKS,
    PAIRWISE,
    PLAIN,
    SIGNATURE,
    VECTORS,
    Formula,
    Rates,
    Term,
    calibrate,
    is_wide,
)
from bench.workloads import Workload
from secagg.errors import ConfigError
from secagg.protocols.base import AggregationProtocol

BITS = 16  # of a value in the sessions of narrow lanes
_WIDE = Workload(8, 1, 0.0, 30)  # sums of 33 bits
#: Every term that a formula may have, by its symbols.
TERMS: Mapping[str, Term] = {
    term.symbols: term
    for term in (
        *(one for terms in (PAIRWISE, ONE_SHOT, PLAIN) for role in terms.values() for one in role),
        *(SIGNATURE, HASHED, OWN_MASKS, ALL_MASKS, VECTORS),
    )
}

SavedRates = Mapping[str, tuple[Rates, ...]]


def measure(protocols: Mapping[str, AggregationProtocol], step: Callable[[str, str], None]) -> SavedRates:
    """The rates of each protocol: of narrow lanes and, if the protocol has lanes, of wide ones."""
    return {
        name: tuple(
            calibrate(name, protocol, bits, step)
            for bits in (BITS, *([_WIDE.bits] if is_wide(protocol, _WIDE) else []))
        )
        for name, protocol in protocols.items()
    }


def chosen_rates(
    saved: SavedRates, protocols: Mapping[str, AggregationProtocol], workload: Workload
) -> dict[str, Rates]:
    """The rates of each protocol at ``workload``. ``ConfigError`` for a protocol whose rates were not measured."""
    if missing := [name for name in protocols if name not in saved]:
        raise ConfigError(f"got rates without {', '.join(missing)}; measure them with python -m bench rates")
    return {name: saved[name][-1 if is_wide(one, workload) else 0] for name, one in protocols.items()}


def to_plain(saved: SavedRates) -> dict[str, Any]:
    """The rates in plain types: by protocol, a list of lanes, each with seconds by role and symbol."""
    return {
        name: [
            {
                "bits": one.bits,
                "seconds": {
                    role: {str(term): rate for term, rate in zip(formula.terms, formula.rates, strict=True)}
                    for role, formula in one.formulas.items()
                },
            }
            for one in lanes
        ]
        for name, lanes in saved.items()
    }


def _seconds(value: object) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1e9:  # type: ignore[operator]
        raise ValueError("a rate is a number of seconds")
    return float(value)  # type: ignore[arg-type]


def from_plain(plain: Mapping[str, Any]) -> SavedRates:
    """What :func:`to_plain` wrote. ``KeyError``, ``TypeError``, ``ValueError`` or ``AttributeError`` for others."""
    return {
        name: tuple(
            Rates(
                {
                    role: Formula(
                        tuple(TERMS[symbols] for symbols in seconds), tuple(map(_seconds, seconds.values()))
                    )
                    for role, seconds in one["seconds"].items()
                },
                one["bits"],
            )
            for one in lanes
        )
        for name, lanes in plain.items()
    }


def load(path: Path) -> SavedRates:
    """The rates of a file that ``python -m bench rates --json`` wrote. ``ConfigError`` for any other file."""
    document = report.read_json(path)
    if document.get("kind") != report.Kind.RATES:
        raise ConfigError(f"{path} does not hold rates; write it with python -m bench rates --json {path}")
    try:
        return from_plain(document["rates"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} holds rates that this version can't read; measure them anew") from error
