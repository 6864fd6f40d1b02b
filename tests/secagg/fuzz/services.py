"""What a service reads, and what others read from it; needs the service's extra."""

from __future__ import annotations

import json
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import msgspec
import numpy as np

import secagg
from secagg.api import tokens
from secagg.api.documents import Offer
from secagg.api.routes import SESSION_HEADER
from secagg.errors import ConfigError, Refused, SecAggError
from secagg.identity import PartyRole
from secagg.kit import Kit
from secagg.remote.requests import Response
from secagg.remote.session import read_offer
from secagg.roles.outcome import Outcome
from secagg.service import command, files, guard, outcomes, settings, status, terminal
from secagg.service.inbox import Inboxes
from secagg.service.relays import Relays
from secagg.service.settings import Entry
from secagg.service.spool import Record, Spool
from secagg.testing import parties_for
from tests.secagg.fuzz.decoders import Decoder, json_tree
from tests.secagg.fuzz.files import DIGEST, TOML, toml
from tests.secagg.fuzz.mutate import Mutator

NOW = 1_800_000_000.0
MODEL = {"w": np.zeros((2, 2)), "b": np.zeros(3)}


def service_decoders(folder: Path) -> list[Decoder]:
    """Those of a service and of its clients; ``folder`` is for those that read files."""
    return [*_of_callers(folder), *_of_answers(), *_of_the_operator(folder), *_of_the_folder(folder)]


def _of_callers(folder: Path) -> list[Decoder]:
    """Tokens, cursors and headers: anybody sends them."""
    parties = parties_for(secagg.SecAgg(), 4).enrolled()
    assert parties.roster is not None
    callers = tokens.Callers(parties.roster, "https://localhost", bytes(32), lambda: NOW)
    identity = parties.identities["c1"]
    token = tokens.sign_token("c1", identity, "https://localhost", bytes(32), NOW)
    claims = jwt.decode(token, options={"verify_signature": False})

    def called(data: bytes) -> None:
        try:
            claimed = json.loads(data)
            header = jwt.encode(claimed, identity, algorithm="EdDSA")
        except (ValueError, TypeError, RecursionError, OverflowError):
            claimed, header = None, data.decode("latin-1")
        if callers.party(f"Bearer {header}") != "c1" or (claimed is not None and claimed["sub"] != "c1"):
            raise AssertionError("another party's token")

    listened = Inboxes("s" * 64, Relays(folder / "heard"), frozenset({"d1"}))
    listened.open(1, {"c1": b"request"})
    listened.add(1, {"c1": b"more"})

    def polled(data: bytes) -> None:
        for party in ("c1", "d1", "stranger"):
            listened.waits(party, text := data.decode("latin-1"))
            listened.read(party, text)

    def taken(data: bytes) -> None:
        tags = msgspec.msgpack.encode({"c1": bytes(range(32))})
        files.took(tags, "c1", data)

    def claimed_length(data: bytes) -> None:
        scope: Any = {"headers": [(b"content-length", data), (b"host", data)]}
        guard._hostname(data)
        guard._Exchange(scope, None, None, None)  # type: ignore[arg-type]
        if guard.body_length(scope, 1 << 20) > 1 << 20:
            raise AssertionError("a body that is too long")

    cursors = [b"", b"s" * 16 + b".1", b"s" * 16 + b".1.1", b"s" * 16 + b"." + b"9" * 5000]
    return [
        Decoder("token", called, [token.encode(), json.dumps(claims).encode()], (tokens.TokenError,), _claims),
        Decoder("cursor of a poll", polled, [*cursors, b"s" * 16 + b".1." + b"9" * 5000], ()),
        Decoder("digest of a message", taken, [bytes(range(32))], ()),
        Decoder("length of a body", claimed_length, [b"0", b"1024", b"9" * 5000, b"\xb2"], (guard.Problem,)),
    ]


def _claims(mutator: Mutator, data: bytes) -> bytes:
    return json_tree(mutator, data) if data.startswith(b"{") else mutator.octets(data)


def _of_answers() -> list[Decoder]:
    """What a service, or another server in its place, sends to a client and to an operator's terminal."""
    offer = Offer(1, 2, DIGEST, 100, '{"lr":0.1}', 60.0, 600.0)
    kit = Kit(
        party="c1", role=PartyRole.CLIENT, url="https://localhost", task=DIGEST, auth="roster", trust="semi-honest"
    )

    def offered(data: bytes) -> None:
        session = read_offer(Response(200, {}, data), kit, NOW)
        if read_offer(Response(200, {SESSION_HEADER.lower(): session.key}, data), kit, NOW).name != session.name:
            raise AssertionError("one offer has two sessions")

    moment = datetime.fromtimestamp(NOW, UTC)
    service = status.ServiceStatus(url="https://localhost", version="1", started=moment, ready=True)
    party = status.PartyStatus(party="c1", role="client", seen=moment)
    document = status.encode(status.Status(at=moment, service=service, parties=(party,)))

    def shown(data: bytes) -> None:
        terminal.render(terminal._read(data))

    return [
        Decoder("offer", offered, [msgspec.json.encode(offer)], (Refused,), json_tree),
        Decoder("status document", shown, [document], (SecAggError,), json_tree),
    ]


def _of_the_operator(folder: Path) -> list[Decoder]:
    """``service.toml``, and the first model."""
    path, model, signature = folder / "serve.toml", folder / "model.npz", folder / "roster.sig"
    task = parties_for(secagg.SecAgg(), 4).make_task()
    entry = Entry("task.bin", model="model.npz")

    def configured(data: bytes) -> None:
        path.write_bytes(data)
        read = settings.read_settings(path)
        for address in (read.service.listen, read.service.status or "a:1"):
            if not 0 <= settings._address(address)[1] <= 65535:
                raise AssertionError("a port that is none")
        settings._made(settings.Limits, read.service.limits, "limits")
        for one in read.task:
            settings._made(settings.Schedule, one.schedule, "schedule")

    def first(data: bytes) -> None:
        model.write_bytes(data)
        command._default_loop([entry], [task], folder)

    def signed(data: bytes) -> None:
        signature.write_bytes(data)
        settings._signature(signature)

    def tasked(data: bytes) -> None:
        (folder / "task.bin").write_bytes(data)
        settings.read_task(entry, folder)

    np.savez(model, **MODEL)
    return [
        Decoder("service.toml", configured, [TOML], (ConfigError,), toml),
        Decoder("first model", first, [model.read_bytes()], (ConfigError,)),
        Decoder("signature in a file", signed, [b"{}"], (ConfigError,)),
        Decoder("task of a service", tasked, [task.to_bytes()], (ConfigError,)),
    ]


def _of_the_folder(folder: Path) -> list[Decoder]:
    """What the service itself has written, and a disk or a backup has damaged."""
    layout = secagg.Layout.of(MODEL)
    path = folder / "outcome.npz"
    arrays = {name: {"w": np.ones((2, 2)), "b": np.ones(3)} for name in ("mean", "sum")}
    document = outcomes.write_outcome(path, _outcome(arrays), layout)
    saved = path.read_bytes()

    def outcome(data: bytes) -> None:
        path.write_bytes(saved)
        outcomes.read_outcome(path, data.decode("latin-1"), layout)

    def summed(data: bytes) -> None:
        path.write_bytes(data)
        if outcomes.read_outcome(path, document, layout).mean["w"].shape != (2, 2):
            raise AssertionError("a mean of another shape")

    place = folder / "spool.1"
    with Spool(place) as spool:
        spool.append([Record("c1", bytes(32), b"one"), Record("c2", bytes(range(32)), b"message two")])
    kept = place.read_bytes()

    def spooled(data: bytes) -> None:
        place.write_bytes(data)
        with Spool(place) as spool:
            records = list(spool.replay())
            if len(records) != len(spool):
                raise AssertionError("records that were not counted")

    with Relays(folder / "relayed") as relays:
        relays.append("d1", 1, b"one")
        relays.broadcast(("d1", "d2"), 2, b"message two")
    relayed = folder / "relayed" / "relays"
    handed_on = relayed.read_bytes()

    def relay(data: bytes) -> None:
        relayed.write_bytes(data)
        with Relays(folder / "relayed") as relays:
            if relays.size > len(data):
                raise AssertionError("messages beyond the file's end")
            for party in ("d1", "d2"):
                relays.read(party, 0, 10, 1 << 20)

    return [
        Decoder("outcome", outcome, [document.encode()], (ConfigError,), json_tree),
        Decoder("arrays of an outcome", summed, [saved], (ConfigError,)),
        Decoder("spool", spooled, [kept, kept[:70], b""], (ConfigError,), slow=True),
        Decoder("relays", relay, [handed_on, b""], (ConfigError,), _relays),
    ]


def _relays(mutator: Mutator, data: bytes) -> bytes:
    """A message whose ids are changed under a check sum that holds."""
    if len(data) < 20:
        return mutator.octets(data)
    names = mutator.octets(b"d1")[:40]
    head = data[:12] + len(names).to_bytes(4, "big")
    return head + zlib.crc32(names, zlib.crc32(head)).to_bytes(4, "big") + names + data[22:]


def _outcome(arrays: dict[str, Any]) -> Outcome:
    return Outcome(
        mean=arrays["mean"], sum=arrays["sum"], total_weight=2, survivors=("c1", "c2"),
        dropped={"c3": "MaskedInput"}, faults=(), clipped=0, epsilon_guaranteed=None, epsilon_realised=1.5,
    )  # fmt: skip
