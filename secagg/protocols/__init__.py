"""The protocols, each in a module or a package of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secagg.errors import ConfigError

if TYPE_CHECKING:
    from secagg.protocols.base import AggregationProtocol


def named() -> dict[str, AggregationProtocol]:
    """This library's protocols at their defaults, by the name that the command line knows."""
    from secagg.protocols.clear import Clear
    from secagg.protocols.encrypted.protocol import BFV, CKKS, Paillier
    from secagg.protocols.oneshot.protocol import OneShot
    from secagg.protocols.pairwise.protocol import SecAgg, SecAggPlus
    from secagg.protocols.shares.protocol import AdditiveShares

    protocols = (
        Clear(),
        SecAgg(),
        SecAggPlus(),
        AdditiveShares(),
        OneShot(),
        Paillier(),
        BFV(),
        CKKS(),
        CKKS(holder="clients"),
    )
    return {protocol.name: protocol for protocol in protocols}


def variants() -> dict[str, AggregationProtocol]:
    """Variants, weaker or slower, by the names that the command line knows; they run only if they are named."""
    from secagg.protocols.encrypted.protocol import BFV, CKKS, Paillier

    protocols = (
        Paillier(key="run"),
        Paillier(commit=False),
        BFV(commit=False),
        CKKS(commit=False),
        BFV(engine="seal"),
        CKKS(engine="seal"),
        CKKS(holder="clients", engine="seal"),
    )
    return {protocol.name: protocol for protocol in protocols}


def chosen(names: Sequence[str], option: str = "--protocol") -> dict[str, AggregationProtocol]:
    """The protocols of :func:`named` and :func:`variants` with these names, in upper or lower case.

    Without names, all of :func:`named`. ``ConfigError`` for an unknown name, in the words of the command line;
    ``option`` is the one that the names came with.
    """
    if not names:
        return named()
    known = named() | variants()
    by_name = {name.casefold(): name for name in known}
    if unknown := [name for name in names if name.casefold() not in by_name]:
        several = f"; for several, repeat {option}" if any("," in name for name in unknown) else ""
        raise ConfigError(f"got {option} {', '.join(unknown)}; expected any of {', '.join(known)}{several}")
    return {by_name[name.casefold()]: known[by_name[name.casefold()]] for name in names}
