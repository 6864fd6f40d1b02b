"""What docs/threat-model.md says is *not* protected, shown: tests that pass because the attack does."""

import numpy as np
import pytest

from secagg.lanes import fold_lanes, zero_lanes
from secagg.protocols.encrypted.digits import Digits
from secagg.protocols.encrypted.messages import Ciphertexts, EncryptedSum, OpenedSum
from secagg.protocols.encrypted.parameters import Encrypted
from secagg.wire import Envelope
from tests.secagg.test_encrypted import LIMIT, PROTOCOLS, Stage


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_server_that_lies_to_the_decryptor_reads_one_update(protocol: Encrypted) -> None:
    """It states four clients and hands over one's ciphertext: a possible sum of four, as far as anyone can see."""
    stage = Stage(protocol)
    stage.to_opening()
    digits = Digits(stage.task)
    adder = protocol.scheme(stage.task).adder(
        digits.length, stage.server._public(stage.server.context.state.signed_key)
    )
    adder.fold(bytes(Envelope.parse(stage.members["c1"]._state.last_reply, LIMIT).open(Ciphertexts)[1]))
    opened = stage.members[stage.dec].receive(stage.seal(EncryptedSum(b"\x0f"), adder.total()))
    assert opened is not None
    lanes = zero_lanes(stage.task)
    fold_lanes(stage.task, Envelope.parse(opened, LIMIT).open(OpenedSum)[1], lanes)
    found = stage.task.encoding.decode(lanes, layout=stage.task.layout, survivors=1, max_weight=None).sum
    np.testing.assert_allclose(found, stage.update("c1"), atol=1 / 32767)
