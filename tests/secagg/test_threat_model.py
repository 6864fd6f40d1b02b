"""What docs/threat-model.md says is *not* protected, shown: tests that pass because the attack does."""

import numpy as np
import pytest

from secagg.lanes import fold_lanes, zero_lanes
from secagg.protocols.encrypted.digits import Digits
from secagg.protocols.encrypted.messages import Ciphertexts, EncryptedSum, OpenedSum
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.table import Round
from secagg.wire import Envelope
from tests.secagg.test_encrypted import DEC, LIMIT, PROTOCOLS, begin


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_server_that_lies_to_the_decryptor_reads_one_update(protocol: Encrypted) -> None:
    """It states four clients and hands over one's ciphertext: a possible sum of four, as far as anyone can see."""
    session = begin(protocol)
    session.until(Round.OPENING)
    digits = Digits(session.task)
    adder = protocol.scheme(session.task).adder(
        digits.length, session.server._public(session.server.context.state.signed_key)
    )
    adder.fold(bytes(Envelope.parse(session.members["c1"]._state.last_reply, LIMIT).open(Ciphertexts)[1]))
    opened = session.members[DEC].receive(session.seal(EncryptedSum(b"\x0f"), adder.total()))
    assert opened is not None
    lanes = zero_lanes(session.task)
    fold_lanes(session.task, Envelope.parse(opened, LIMIT).open(OpenedSum)[1], lanes)
    layout = session.task.layout
    opened_update = session.task.encoding.decode(lanes, layout=layout, survivors=1, max_weight=None).sum
    expected = np.clip(session.updates["c1"]["w"], -1, 1)
    np.testing.assert_allclose(opened_update, expected, atol=1 / 32767)
