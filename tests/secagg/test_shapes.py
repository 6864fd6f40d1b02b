"""One loop drives every shape of protocol: masks, a decryptor, two aggregators, a committee."""

from typing import Any

import numpy as np
import pytest

import secagg
from secagg.testing import Session, parties_for
from tests.secagg.committee import Committee

SHAPES = [secagg.Clear(), secagg.SecAgg(), secagg.AdditiveShares(), secagg.BFV(), Committee()]
every = pytest.mark.parametrize("protocol", SHAPES, ids=lambda protocol: protocol.name)


@every
def test_everyone_but_the_server_talks_to_the_server_only(protocol: Any) -> None:
    task = parties_for(protocol, 5).make_task()
    result = secagg.simulate(task, [{"w": np.zeros(5)}] * 5, weights=[1] * 5)
    for sent, received in ((result.bytes_up, result.bytes_down), (result.bytes_down, result.bytes_up)):
        others = sum(sum(by_round.values()) for party, by_round in sent.items() if party != "server")
        assert sum(received["server"].values()) == others > 0


@every
def test_a_client_that_named_no_session_looks_at_the_proposed_one_first(protocol: Any) -> None:
    """It takes part in any protocol, whether the proposal asks for its input or not."""
    session = Session(parties_for(protocol, 5), session=b"round 9", contribute=False)
    for party in session.parties.cohort:
        lent = {name: lent for name, lent in session.lent(party).items() if name != "clock"}
        client = session.members[party] = session.task.client(party, **lent)
        assert client.session is None
        with pytest.raises(secagg.LocalProtocolError, match="before the session is known"):
            session.contribute(party)

    def before_request(party: str, request: bytes) -> None:
        try:
            session.members[party].receive(request)
        except secagg.LocalProtocolError:
            assert session.members[party].session == b"round 9"
            session.contribute(party)

    session.before_request = before_request
    session.require_completes("with clients that took part in any session")
