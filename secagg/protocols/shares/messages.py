"""The messages of AdditiveShares."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from mpc.keys import encode_parts
from secagg import wire

if TYPE_CHECKING:
    from secagg.task import Task


HASH_BYTES = 32
MAX_AGGREGATORS = 16
MAX_UNOPENED = 4
"""Reports that a helper keeps because it can't open them; with more the session can't end."""


class Ready(wire.Message, frozen=True):
    """Preparation, aggregator to collector: it will take reports of this session."""

    TYPE: ClassVar[int] = 2


class Report(wire.Message, frozen=True):
    """Report, client to all aggregators: its input shares, each sealed to one of them.

    ``seeds`` are the helpers', by id; the leader's, sealed, follows.
    """

    TYPE: ClassVar[int] = 3
    seeds: list[bytes]


class Recount(wire.Message, frozen=True):
    """Recount, collector to aggregators: there will be no more reports; which ones are there?"""

    TYPE: ClassVar[int] = 4


class Held(wire.Message, frozen=True):
    """Recount, aggregator to collector: whose reports it holds, and those that it couldn't open, as received."""

    TYPE: ClassVar[int] = 5
    reports: bytes
    unopened: list[bytes]


class Collect(wire.Message, frozen=True):
    """Agreement, collector to aggregators: the reports that all of them hold.

    ``unopened`` are reports that a helper couldn't open, for the leader to take off its sum.
    """

    TYPE: ClassVar[int] = 6
    reports: bytes
    unopened: list[bytes]


class Agreed(wire.Message, frozen=True):
    """Agreement, aggregator to all: the set that it was told, and the digest of the reports that it holds of it."""

    TYPE: ClassVar[int] = 7
    reports: bytes
    digest: bytes


class Release(wire.Message, frozen=True):
    """AggregateShare, collector to aggregators: what all of them signed, as received."""

    TYPE: ClassVar[int] = 8
    agreed: list[bytes]


class AggregateShare(wire.Message, frozen=True):
    """AggregateShare, aggregator to collector: its share of the sum follows."""

    TYPE: ClassVar[int] = 9


def share_info(task: Task, session: bytes, client: str, aggregator: str) -> bytes:
    """What a sealed input share is bound to."""
    return encode_parts("secagg/v1/input-share", task.digest, session, client, aggregator)


def reports_digest(session: bytes, reports: Mapping[str, bytes]) -> bytes:
    """The digest of a set of reports: each client with the digest of what it signed."""
    parts = [part for client in sorted(reports) for part in (client, reports[client])]
    return hashlib.sha256(encode_parts("secagg/v1/reports", session, *parts)).digest()
