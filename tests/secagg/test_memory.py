"""The server's memory is O(vector): inputs are folded in as they come and none is kept."""

import tracemalloc

import numpy as np

import secagg
from secagg.identity import enrol
from secagg.testing import Session, parties_for, rng_for_tests

CLIENTS, SIZE = 100, 1_000_000
SILENT = {"c001", "c002"}  # before MaskedInput


def test_peak_over_the_servers_calls_alone() -> None:
    """n = 100, d = 1,000,000, two dropouts: below 8·4·d bytes, fed from a recorded transcript.

    The transcript holds 98 masked inputs of 2.9 MB; a server that kept two of them beside its sum and its
    outcome would be over.
    """
    ids = [f"c{i:03}" for i in range(CLIENTS)]
    keys, roster = enrol(ids)
    task = secagg.Task(
        protocol=secagg.SecAgg(),
        layout=secagg.Layout.of(np.zeros(SIZE, np.float32)),
        encoding=secagg.FixedPoint(clip=1.0, bits=16),
        max_clients=CLIENTS,
        min_survivors=80,
        max_weight=1000,
    )
    update = np.linspace(-1, 1, SIZE, dtype=np.float32)

    def serve() -> secagg.Server:
        return task.server(ids, roster=roster, session=b"s", rng=rng_for_tests(b"server"))

    server, transcript = serve(), []
    clients = {c: task.client(c, identity=keys[c], roster=roster, session=b"s") for c in ids}
    outbox = server.start()
    while server.outcome is None:
        replies = {}
        for party in sorted(server.pending):
            request = outbox[party]
            if server.round == secagg.Round.MASKED_INPUT:
                if party in SILENT:
                    continue
                clients[party].contribute(update, weight=500)
            replies[party] = clients[party].receive(request)
            server.receive(party, replies[party])
        transcript.append(replies)
        outbox = server.close_round()
    del server, clients, outbox, replies

    tracemalloc.start()
    try:
        server = serve()
        server.start()
        for replies in transcript:
            for party, reply in replies.items():
                server.receive(party, reply)
            server.close_round()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(server.outcome.survivors) == CLIENTS - len(SILENT)
    assert not [fault for fault in server.faults if fault.kind != secagg.FaultKind.SILENT]
    np.testing.assert_allclose(server.outcome.mean, update, atol=2e-4)
    assert peak < 8 * 4 * SIZE, f"{peak / (4 * SIZE):.2f} vectors of 4 bytes a coordinate"


def test_peak_over_the_calls_of_a_server_of_one_shot() -> None:
    """Uploads of thirty clients, of which none is kept: below two uploads' bytes beside sum, total and outcome."""
    protocol = secagg.OneShot(members=4, corrupt_members=1, kem="X25519")
    known = parties_for(protocol, 30)
    task = known.make_task(
        layout=secagg.Layout.of({"w": np.zeros(SIZE // 4, np.float32)}),
        encoding=secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest"),
        max_weight=None,
    )
    session = Session(known, task=task)
    session.until(secagg.Round.INPUT)
    answers = {party: session.ask(party) for party in known.cohort}
    tracemalloc.start()
    try:
        for party, answer in answers.items():
            session.server.receive(party, answer)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not session.server.pending
    assert kept < len(answers["c1"])
    assert kept < 2000 * len(answers)
