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
    """Preparation, aggregator to collector: it is ready for the reports of this session."""

    TYPE: ClassVar[int] = 2


class Report(wire.Message, frozen=True):
    """Report, client to all aggregators: its input shares, each sealed to one aggregator.

    ``seeds`` are the sealed shares of the helpers, by id. The leader's sealed share follows the message.
    """

    TYPE: ClassVar[int] = 3
    seeds: list[bytes]


class Recount(wire.Message, frozen=True):
    """Recount, collector to aggregators: no more reports will come. It asks which reports they hold."""

    TYPE: ClassVar[int] = 4


class Held(wire.Message, frozen=True):
    """Recount, aggregator to collector: the clients whose reports it holds, and the reports it couldn't open."""

    TYPE: ClassVar[int] = 5
    reports: bytes
    unopened: list[bytes]


class Collect(wire.Message, frozen=True):
    """Agreement, collector to aggregators: the set of reports that all of them hold.

    ``unopened`` are the reports that a helper couldn't open. The leader subtracts its shares of them.
    """

    TYPE: ClassVar[int] = 6
    reports: bytes
    unopened: list[bytes]


class Agreed(wire.Message, frozen=True):
    """Agreement, aggregator to all: the set that it received, and the digest of its reports of that set."""

    TYPE: ClassVar[int] = 7
    reports: bytes
    digest: bytes


class Release(wire.Message, frozen=True):
    """AggregateShare, collector to aggregators: the signed agreements of all of them, as received."""

    TYPE: ClassVar[int] = 8
    agreed: list[bytes]


class AggregateShare(wire.Message, frozen=True):
    """AggregateShare, aggregator to collector: its share of the sum follows."""

    TYPE: ClassVar[int] = 9


def share_info(task: Task, session: bytes, client: str, aggregator: str) -> bytes:
    """HPKE's info for a sealed input share: it binds the share to task, session, client and aggregator."""
    return encode_parts("secagg/v1/input-share", task.digest, session, client, aggregator)


def reports_digest(session: bytes, reports: Mapping[str, bytes]) -> bytes:
    """The digest of a set of reports: each client with the digest of what it signed."""
    parts = [part for client in sorted(reports) for part in (client, reports[client])]
    return hashlib.sha256(encode_parts("secagg/v1/reports", session, *parts)).digest()
