"""Records a SecAgg session from fixed seeds: ``python -m tests.secagg.transcript`` writes the vector anew."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from secagg.identity import Party, PartyRole, Roster
from secagg.protocols.lanes import widths
from secagg.testing import rng_for_tests

VECTOR = Path(__file__).parent.parent / "vectors" / "secagg-transcript.json"
CLIENTS = ["c1", "c2", "c3", "c4", "c5", "c6"]
DROPOUTS = {"c3": secagg.Round.MASKED_INPUT, "c5": secagg.Round.UNMASKING}


def record() -> dict[str, Any]:
    """One malicious-model session of six, one silent before its input, one before Unmasking."""
    identities = {
        c: Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"identity of " + c.encode()).digest())
        for c in CLIENTS
    }
    roster = Roster(
        Party(c, PartyRole.CLIENT, key.public_key().public_bytes_raw()) for c, key in identities.items()
    )
    task = secagg.Task(
        protocol=secagg.SecAgg(),
        layout=secagg.Layout.of({"w": np.zeros((2, 3), np.float32), "b": np.zeros(3)}),
        encoding=secagg.FixedPoint(clip={"w": 1.0, "b": 0.5}, bits=31),
        max_clients=6,
        min_survivors=4,
        max_weight=5,
        context=b"test vector",
    )
    server = task.server(CLIENTS, roster=roster, session=b"round 1", rng=rng_for_tests(b"server"))
    clients = {
        c: task.client(c, identity=identities[c], roster=roster, session=b"round 1", rng=rng_for_tests(c.encode()))
        for c in CLIENTS
    }
    for number, client in enumerate(clients.values(), 1):
        values = np.linspace(-0.7, 0.9, 9) * number / 5
        client.contribute({"w": values[:6].reshape(2, 3), "b": values[6:]}, weight=(number - 1) % 5 + 1)
    messages: list[dict[str, str]] = []
    encoded = {
        c: [[int(n) for n in segment] for segment in client.contribution(client._state)]
        for c, client in clients.items()
    }
    outbox = server.start()
    while server.outcome is None:
        for party, request in outbox.items():
            if (
                list(secagg.Round).index(DROPOUTS.get(party, secagg.Round.UNMASKING))
                < list(secagg.Round).index(secagg.Round(server.round))
                or DROPOUTS.get(party) == server.round
            ):
                continue
            reply = clients[party].receive(request)
            messages.append({"from": "server", "to": party, "data": request.hex()})
            messages.append({"from": party, "to": "server", "data": reply.hex()})
            server.receive(party, reply)
        outbox = server.close_round()
    pairs = zip(task.segments, widths(task), strict=True)
    return {
        "about": "A session of SecAgg in the malicious model; c3 silent before MaskedInput, c5 before Unmasking.",
        "task": task.to_bytes().hex(),
        "session": b"round 1".hex(),
        "corrupt": 1,
        "segments": [[segment.length, bits] for segment, bits in pairs],
        "identities": {c: key.private_bytes_raw().hex() for c, key in identities.items()},
        "seeds": {c: rng_for_tests(c.encode())(32).hex() for c in CLIENTS},
        "encoded": encoded,
        "messages": messages,
        "survivors": list(server.outcome.survivors),
    }


if __name__ == "__main__":
    VECTOR.write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")
