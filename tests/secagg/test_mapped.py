"""Messages in mapped files: they are folded in without a copy, and nobody keeps a part of the file."""

from __future__ import annotations

import gc
import mmap
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from mpc.additive import SEED_BYTES
from mpc.hpke import Kem
from secagg import wire
from secagg.lanes import vectors_size
from secagg.protocols.clear import Input
from secagg.protocols.pairwise.messages import MaskedInput
from secagg.protocols.shares.messages import Report
from secagg.testing import Parties, Session, parties_for
from tests.secagg.test_again import KINDS

MB = 1 << 20
SIZE = 64 * MB


@contextmanager
def mapped(path: Path, data: bytes) -> Iterator[memoryview]:
    """``data`` as a view of a mapped file. Closing it fails where anyone still has a part of it."""
    path.write_bytes(data)
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with memoryview(pages) as view:
            yield view
        try:
            pages.close()
        except BufferError:  # a refused message is in the circle of an exception and its frames
            gc.collect()
            pages.close()


@pytest.mark.parametrize("name", KINDS)
def test_nobody_keeps_a_part_of_a_mapped_message(name: str, tmp_path: Path) -> None:
    session = Session(parties_for(KINDS[name], 12 if name == "SecAggPlus" else 4))
    server, members = session.server, session.members
    outbox = server.start()

    def deliver(party: str, message: bytes) -> None:
        with mapped(tmp_path / "message", message) as view:
            answer = members[party].receive(view)
        if answer is not None:
            give(party, answer)

    def give(party: str, answer: bytes) -> None:
        bad = [answer[:-1] + bytes([answer[-1] ^ 1])] if party == "c1" else []
        for data in (*bad, answer, answer):
            with mapped(tmp_path / "message", data) as view:
                handed = server.receive(party, view)
            assert all(type(one) is bytes for one in handed.values())
            for receiver, one in handed.items():
                deliver(receiver, one)

    while server.outcome is None:
        for party, request in outbox.items():
            deliver(party, request)
        outbox = server.close_round()
        session.restore_server(session.stores[wire.SERVER].state)
        server = session.server
    session.require_exact(server.outcome, "from mapped files")


def large(protocol: Any) -> tuple[Parties, secagg.Task]:
    known = parties_for(protocol, 4)
    layout = secagg.Layout.of({"w": np.zeros(SIZE // 4, np.float32)})
    encoding = secagg.FixedPoint(clip=1.0, bits=30, rounding="nearest")
    task = known.make_task(layout=layout, encoding=encoding, max_weight=None)
    assert vectors_size(task) >= SIZE
    return known, task


def upload(known: Parties, task: secagg.Task, server: Any, party: str, message: wire.Message, tail: int) -> bytes:
    """An answer of the right size; what it adds up to is of no matter here."""
    return wire.seal_envelope(
        message,
        protocol=task.protocol.ID,
        task=task.digest,
        session=server.context.state.session_id,
        sender=party,
        payload=bytes(vectors_size(task) + tail),
        identity=known.identities.get(party),
    )


def peak_of_taking(server: Any, party: str, view: memoryview) -> tuple[int, dict[str, bytes]]:
    """The peak of memory over one call, beyond what was there before, and what it handed on."""
    tracemalloc.start()
    try:
        handed = server.receive(party, view)
        return tracemalloc.get_traced_memory()[1], handed
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "protocol", [secagg.Clear(), secagg.SecAgg(threat_model="semi-honest")], ids=["Clear", "SecAgg"]
)
def test_an_upload_in_a_mapped_file_is_added_up_without_a_copy(protocol: Any, tmp_path: Path) -> None:
    known, task = large(protocol)
    server = task.server(known.cohort, roster=known.roster, session=b"s")
    clients = {party: task.client(party, session=b"s", roster=known.roster) for party in known.cohort}
    outbox = server.start()
    message: wire.Message = Input()
    while server.round not in (secagg.Round.INPUT, secagg.Round.MASKED_INPUT):
        for party, request in outbox.items():
            server.receive(party, clients[party].receive(request))
        outbox, message = server.close_round(), MaskedInput()
    server.receive("c1", upload(known, task, server, "c1", message, 0))  # the sum is there from now on
    data = upload(known, task, server, "c2", message, 0)
    with mapped(tmp_path / "upload", data) as view:
        peak, _ = peak_of_taking(server, "c2", view)
    assert "c2" not in server.pending
    assert peak < 2 * MB
    assert server.receive("c3", b"") == {}
    copied, _ = peak_of_taking(server, "c3", memoryview(bytearray(upload(known, task, server, "c3", message, 0))))
    assert "c3" not in server.pending
    assert copied > len(data), "the control: what anyone can change is copied first"


def test_a_report_in_a_mapped_file_is_copied_once_to_be_handed_on(tmp_path: Path) -> None:
    known, task = large(secagg.AdditiveShares(aggregators=3))
    server = task.server(known.cohort, roster=known.roster, session=b"s")
    for party, request in server.start().items():
        member = task.aggregator(
            party, session=b"s", roster=known.roster, identity=known.identities[party], key=known.long_lived[party]
        )
        server.receive(party, member.receive(request))
    server.close_round()
    sealed = Kem.MLKEM768_X25519.overhead
    data = upload(known, task, server, "c1", Report([bytes(SEED_BYTES + sealed)] * 2), sealed)
    with mapped(tmp_path / "upload", data) as view:
        peak, handed = peak_of_taking(server, "c1", view)
    assert [handed[party] == data for party in sorted(handed)] == [True] * 3
    assert len({id(one) for one in handed.values()}) == 1
    assert peak < len(data) + 2 * MB
