"""Every protocol opens the exact sum, whichever clients fall silent and in whichever round."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import secagg
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.table import rounds
from secagg.testing import Parties, Session, parties_for
from tests.secagg.fuzz.roles import BEACON, fetch
from tests.secagg.test_encrypted import TIMELY, keys_found_once

CLIENTS = (5, 8, 20)
PROTOCOLS: dict[str, Any] = {
    "SecAgg": secagg.SecAgg(),
    "SecAgg, semi-honest": secagg.SecAgg(threat_model="semi-honest"),
    "SecAggPlus, malicious": secagg.SecAggPlus(threat_model="malicious", beacon=BEACON),
    "SecAggPlus": secagg.SecAggPlus(),
    "SecAggPlus, semi-honest": secagg.SecAggPlus(threat_model="semi-honest"),
    "AdditiveShares": secagg.AdditiveShares(),
    "AdditiveShares of three, X25519": secagg.AdditiveShares(aggregators=3, kem="X25519"),
    "OneShot of four, X25519": secagg.OneShot(members=4, corrupt_members=1, kem="X25519"),
    **TIMELY,
}


@cache
def parties(protocol: Any, clients: int) -> Parties:
    """The parties of a session; so few may fall silent that SecAggPlus draws a sparse graph."""
    known = parties_for(protocol, clients, beacon=fetch)
    if not isinstance(protocol, secagg.SecAggPlus) or clients == CLIENTS[0]:
        return known
    return replace(known, min_survivors=clients - (1 if clients < 10 else 3))


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@settings(max_examples=12)
@given(data=st.data())
def test_the_sum_is_exact(protocol: Any, data: st.DataObject) -> None:
    clients = data.draw(st.sampled_from(CLIENTS), label="clients")
    known = parties(protocol, clients)
    size = data.draw(st.sampled_from([1, 2, 31, 127, 1023, 1025, 2047, 5000]), label="coordinates")
    bits = data.draw(st.sampled_from([2, 8, 16, 20]), label="bits")
    task = known.make_task(
        layout=secagg.Layout.of({"w": np.zeros(size, np.float32)}),
        encoding=secagg.FixedPoint(clip=1.0, bits=bits, rounding="nearest"),
        max_clients=data.draw(st.sampled_from([clients, 256] if isinstance(protocol, Encrypted) else [clients])),
        max_weight=data.draw(st.sampled_from([None, 1, 7, 1 << 20]), label="max_weight"),
        min_survivors=known.min_survivors + 1 if known.min_survivors < clients - 1 else known.min_survivors,
    )
    spare = clients - task.min_survivors
    when = st.dictionaries(st.sampled_from(known.cohort), st.sampled_from(rounds(protocol)), max_size=spare)
    with keys_found_once():
        session = Session(known, task=task, silent=data.draw(when, label="silent"))
        session.require_completes("with these clients silent")
    outcome = session.server.outcome
    clipped = {party: int((np.abs(update["w"]) > 1).sum()) for party, update in session.updates.items()}
    assert outcome.clipped == sum(clipped[party] for party in outcome.survivors)


@pytest.mark.parametrize("clients", [24, 40])
@pytest.mark.parametrize("threat_model", ["malicious", "semi-malicious", "semi-honest"])
def test_the_sum_on_a_sparse_graph_is_exact_in_every_round(threat_model: str, clients: int) -> None:
    protocol: Any = PROTOCOLS["SecAggPlus" + ("" if threat_model == "semi-malicious" else f", {threat_model}")]
    gone = clients // 10 + (clients < 30)
    known = replace(parties_for(protocol, clients, beacon=fetch), min_survivors=clients - gone)
    task = known.make_task()
    assert not protocol.shape(task, clients, protocol.corrupt(clients, known.roster)).complete
    for number, name in enumerate(rounds(protocol)):
        silent = dict.fromkeys(known.cohort[number : number + gone], name)
        Session(known, silent=silent).require_completes(f"with {gone} silent in {name}")


@pytest.mark.parametrize("threat_model", ["malicious", "semi-honest"])
def test_masked_inputs_look_uniform_and_have_k_bits_a_coordinate(threat_model: Any) -> None:
    """An all-zero update is sent as as many ones as zeros, within six standard deviations, and under 1 % more."""
    size, known = 100_000, parties_for(secagg.SecAgg(threat_model=threat_model), 6)
    session = Session(known, task=known.make_task(layout=secagg.Layout.of({"w": np.zeros(size)})), contribute=False)
    for party in known.cohort:
        session.updates[party] = {"w": np.zeros(size)}
        session.contribute(party)
    session.run()
    bits = (6 * session.task.segments[0].bound).bit_length()
    for party in known.cohort:
        uploads = [session.answers[party, name] for name in rounds(known.protocol)]
        assert sum(map(len, uploads)) <= 1.01 * size * bits / 8
        body = np.unpackbits(np.frombuffer(session.answers[party, "MaskedInput"][200:-200], np.uint8))
        assert abs(int(body.sum()) - body.size / 2) < 6 * np.sqrt(body.size) / 2
