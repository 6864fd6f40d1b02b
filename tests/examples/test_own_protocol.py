"""The example of your own protocol: its checks, its size, and the attack that it refuses."""

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from examples import own_protocol
from examples.own_protocol import Advert, Adverts, PairwiseMasks
from mpc.keys import agree, encode_parts, public_key
from secagg import lanes, wire
from secagg.errors import RemoteProtocolError
from secagg.identity import Party, PartyRole, Roster
from secagg.roles import MemberContext
from secagg.testing import CHECKS

CLIENTS = ["c1", "c2", "c3", "c4"]
SECRET = bytes(range(32))  # the X25519 key that the server advertises in the others' names


def code_of_the_guide(word: str) -> str:
    """The one block of Python in docs/extending.md with this word."""
    guide = Path(own_protocol.__file__).parent.parent / "docs" / "extending.md"
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL) if word in code]
    return code


def test_every_check_passes_by_the_lines_of_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    exec(code_of_the_guide("check_protocol("), {})
    assert capsys.readouterr().out.split() == list(CHECKS)


def test_it_is_short_and_takes_public_names_only() -> None:
    source = Path(own_protocol.__file__).read_text(encoding="utf-8")
    assert len(source.splitlines()) < 150
    imported = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    names = [f"{node.module}.{alias.name}" for node in imported for alias in node.names]
    assert names
    assert not [name for name in names if "._" in name]


def test_the_session_of_the_guide_runs_as_written() -> None:
    names: dict[str, Any] = {"PairwiseMasks": PairwiseMasks}
    exec(code_of_the_guide("Session("), names)
    assert {fault.sender for fault in names["session"].server.faults} == {"c9"}


def opened_by_a_server_that_swaps_adverts() -> tuple[np.ndarray, np.ndarray]:
    """The server advertises keys of its own for c1's peers: what it reads of c1's input, and c1's update."""
    identities = {client: Ed25519PrivateKey.generate() for client in CLIENTS}
    parties = (Party(c, PartyRole.CLIENT, k.public_key().public_bytes_raw()) for c, k in identities.items())
    roster, update = Roster(parties), {"w": np.linspace(-1, 1, 9)}
    encoding = secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest")
    task = secagg.Task(
        protocol=PairwiseMasks(), layout=secagg.Layout.of(update), encoding=encoding, max_clients=4, min_survivors=4
    )
    victim = task.client("c1", identity=identities["c1"], roster=roster, session=b"s")
    victim.contribute(update)
    advert = victim.receive(task.server(CLIENTS, roster=roster, session=b"s").start()["c1"])
    assert advert is not None
    session = wire.Envelope.parse(advert, 10_000).session
    frame: dict[str, Any] = {"protocol": PairwiseMasks.ID, "task": task.digest, "session": session}
    forged = [
        wire.seal_envelope(Advert(public_key(SECRET)), **frame, sender=client, identity=identities["c1"])
        for client in CLIENTS[1:]
    ]
    masked = victim.receive(wire.seal_envelope(Adverts([advert, *forged]), **frame, sender=wire.SERVER))
    assert masked is not None
    key = wire.Envelope.parse(advert, 10_000).open(Advert)[0].key
    total = lanes.zero_lanes(task)
    lanes.fold_lanes(task, wire.Envelope.parse(masked, 10_000).open(own_protocol.MaskedInput)[1], total)
    for other in CLIENTS[1:]:
        info = encode_parts("own-protocol/v1/mask", "c1", other)
        lanes.mask_all(total, [(agree(SECRET, key, salt=session, info=info), -1)], None)
    lanes.reduce_lanes(task, total)
    return encoding.decode(total, layout=task.layout, survivors=1, max_weight=None).mean, update["w"]


def test_adverts_that_the_server_made_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="signature"):
        opened_by_a_server_that_swaps_adverts()


def test_control_without_the_signature_check_the_server_has_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemberContext, "check_signature", lambda self, envelope, role: None)
    opened, update = opened_by_a_server_that_swaps_adverts()
    np.testing.assert_allclose(opened, update, atol=2**-15)
