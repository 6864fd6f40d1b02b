"""SecAgg's sum equals the integer sum of the survivors' encodings, for every dropout pattern."""

import numpy as np
import pytest

import secagg

CLIENTS = [f"c{i}" for i in range(6)]
MODELS = [secagg.SecAgg(), secagg.SecAgg(threat_model="semi-honest")]


def make_task(protocol: secagg.SecAgg, size: int, **changes: object) -> secagg.Task:
    fields = {"clip": 1.0, "bits": 16, "max_weight": 50, "min_survivors": 4} | changes
    return secagg.Task(
        protocol=protocol,
        layout=secagg.Layout.of(np.zeros(size)),
        encoding=secagg.FixedPoint(clip=fields["clip"], bits=fields["bits"], rounding="nearest"),
        max_clients=6,
        min_survivors=fields["min_survivors"],
        max_weight=fields["max_weight"],
    )


def test_masked_inputs_look_uniform_and_differ_from_the_encoding() -> None:
    """The upload of an all-zero update has as many ones as zeros, within six standard deviations."""
    task = make_task(secagg.SecAgg(threat_model="semi-honest"), 4096)
    sent: list[bytes] = []
    from secagg.roles.server import Server

    original = Server.receive

    def record(self: Server, sender: str, data: bytes) -> dict[str, bytes]:
        if self.round == secagg.Round.MASKED_INPUT:
            sent.append(data)
        return original(self, sender, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "receive", record)
        secagg.simulate(task, dict.fromkeys(CLIENTS, np.zeros(4096)), weights=dict.fromkeys(CLIENTS, 1))
    assert len(sent) == len(CLIENTS)
    for data in sent:
        body = np.unpackbits(np.frombuffer(data[200:-200], np.uint8))
        assert abs(int(body.sum()) - body.size / 2) < 6 * np.sqrt(body.size) / 2


@pytest.mark.parametrize("protocol", MODELS, ids=lambda p: p.threat_model)
def test_upload_is_k_bits_a_coordinate_and_under_one_percent_more(protocol: secagg.SecAgg) -> None:
    size = 100_000
    task = make_task(protocol, size)
    result = secagg.simulate(task, dict.fromkeys(CLIENTS, np.zeros(size)), weights=dict.fromkeys(CLIENTS, 1))
    bits = (6 * task.segments[0].bound).bit_length()
    for client in CLIENTS:
        assert sum(result.bytes_up[client].values()) <= 1.01 * size * bits / 8
