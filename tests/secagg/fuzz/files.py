"""What the library reads from files: keys, settings, accounts of privacy, what a service and a party keep."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import secagg
from bench import saved_rates
from dp.accounting import RDPAccountant
from dp.errors import DPError
from dp.events import Composed, GaussianEvent, PoissonSampled, Release, SelfComposed
from dp.ledger import PrivacyLedger
from secagg import _enrolment_commands as commands
from secagg._kit_command import _Settings
from secagg.api.documents import Joined, Offer
from secagg.certificates import write_certificates
from secagg.errors import ConfigError
from secagg.identity import PartyRole, load_he_key, load_sealing_key
from secagg.kit import Kit
from secagg.registrar import load_registrar
from secagg.remote.settings import Settings
from secagg.remote.state import State
from secagg.store import MemoryLedger
from secagg.testing import parties_for
from tests.secagg.fuzz.decoders import Decoder, json_tree
from tests.secagg.fuzz.mutate import Mutator

DIGEST = "ab" * 32


def file_decoders(folder: Path) -> list[Decoder]:
    """Those of files; ``folder`` is where they are written."""
    return [*_keys(folder), *_budgets(), *_rates(folder), *_state(folder), *_settings(folder)]


def _reading(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def decode(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return decode


def _keys(folder: Path) -> list[Decoder]:
    """Private keys, a registrar's public key, and the commands that tell one kind of file from another."""
    secret = base64.b64encode(bytes(range(32))).decode()
    sealing = json.dumps({"version": 1, "kem": "X25519", "key": secret}).encode()
    he = json.dumps({"version": 1, "scheme": "shared", "key": secret}).encode()
    public = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()
    registrar = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    roster = secagg.identity.enrol(["c1", "c2"])[1].to_json().encode()
    task = parties_for(secagg.SecAgg(), 4).make_task().to_bytes()
    refused = (ConfigError,)
    key, any_file = folder / "private.json", folder / "any"
    write_certificates(["localhost"], folder / "tls")
    ca = (folder / "tls" / "ca.crt").read_bytes()
    pin: Any = {"url": "https://localhost", "task": DIGEST, "role": PartyRole.CLIENT, "party": "c1"}

    def pinned(data: bytes) -> None:
        Kit(ca=data.decode("latin-1"), trust="semi-honest", **pin)

    kit = Kit(roster=secagg.identity.Roster.from_json(roster.decode()).digest.hex(), **pin)

    def served(data: bytes) -> None:
        read = kit.check_roster(data.decode("latin-1"), None, ledger=MemoryLedger(), now=0.0)
        if read.digest.hex() != kit.roster:
            raise AssertionError("another roster than the pinned one")

    return [
        Decoder("certificates of a kit", pinned, [ca, ca + ca], refused, _pem),
        Decoder("roster of a service", served, [roster], refused, json_tree),
        Decoder("sealing key", _reading(key, load_sealing_key), [sealing], refused, json_tree),
        Decoder("homomorphic key", _reading(key, load_he_key), [he], refused, json_tree),
        Decoder("registrar's key", _reading(folder / "registrar.pub", load_registrar), [registrar], refused, _pem),
        Decoder("kind of a file", commands.kind_of_file, [sealing, he, registrar, roster], (), json_tree_or_octets),
        Decoder("roster of a command", _reading(any_file, commands.read_roster_file), [roster], refused, json_tree),
        Decoder("task of a command", _reading(any_file, commands.read_task), [task], refused),
    ]


def json_tree_or_octets(mutator: Mutator, data: bytes) -> bytes:
    """A tree of JSON, or bytes where ``data`` is none."""
    return json_tree(mutator, data) if data.startswith(b"{") else mutator.octets(data)


def _pem(mutator: Mutator, data: bytes) -> bytes:
    if data.count(b"BEGIN") > 1:
        return mutator.octets(data)
    first, *armoured, last = data.strip().split(b"\n")
    der = mutator.octets(base64.b64decode(b"".join(armoured)))
    return b"\n".join((first, base64.b64encode(der), last, b""))


def _budgets() -> list[Decoder]:
    """Accountants and ledgers, under a checksum that holds; what is read is written alike."""
    accountant = RDPAccountant(1e-5)
    for event in (
        GaussianEvent(1.0),
        PoissonSampled(0.1, GaussianEvent(2.0)),
        Composed((SelfComposed(GaussianEvent(3.0), 2),)),
    ):
        accountant.compose(event, 3)
    ledger = PrivacyLedger(8.0, 1e-5, unit="client", trust="central")
    ledger.charge(Release(GaussianEvent(4.0), "client", "central"), once=bytes(32))

    def read(kind: Any) -> Callable[[bytes], None]:
        def decode(data: bytes) -> None:
            again = kind.from_bytes(data)
            if kind.from_bytes(again.to_bytes()).to_bytes() != again.to_bytes():
                raise AssertionError("one account in two ways")

        return decode

    return [
        Decoder("accountant", read(RDPAccountant), [accountant.to_bytes()], (DPError,), _summed),
        Decoder("privacy ledger", read(PrivacyLedger), [ledger.to_bytes()], (DPError,), _summed),
    ]


def _summed(mutator: Mutator, data: bytes) -> bytes:
    body = json_tree(mutator, data.partition(b"\n")[2])
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _rates(folder: Path) -> list[Decoder]:
    """Rates that ``bench plan`` and the chooser's page read: what is read is numbers of seconds."""
    seconds = dict.fromkeys(list(saved_rates.TERMS)[:4], 1e-09)
    lanes = [{"bits": 16, "seconds": {"client": seconds, "server": seconds}}]
    rates = json.dumps({"schema": 1, "kind": "rates", "rates": {"SecAgg": lanes}}).encode()

    def read(path: Path) -> None:
        for lanes in saved_rates.load(path).values():
            for lane in lanes:
                for formula in lane.formulas.values():
                    if not all(0 <= rate < float("inf") for rate in formula.rates):
                        raise AssertionError("a rate that no measurement gives")

    return [Decoder("saved rates", _reading(folder / "rates.json", read), [rates], (ConfigError,), json_tree)]


def _state(folder: Path) -> list[Decoder]:
    """What a client of a service keeps between two starts, and a party's sessions."""
    offer = Offer(1, 2, DIGEST, 100, '{"lr":0.1}', 60.0, 600.0)
    place = folder / "client"
    open_kit = Kit(party=None, role=PartyRole.CLIENT, url="https://localhost", task=DIGEST, auth="open")
    token_kit = Kit(party="c1", role=PartyRole.CLIENT, url="https://localhost", task=DIGEST, auth="tokens")
    state = State(place, open_kit, Settings())
    state.write_offer(offer)
    state.write_joined(Joined("c1", "secret"))
    samples = {name: (place / f"{name}.json").read_bytes() for name in ("offer", "joined")}
    state.close()

    def kept(name: str, kit: Kit, read: Callable[[State], object]) -> Callable[[bytes], None]:
        def decode(data: bytes) -> None:
            shutil.rmtree(place)
            State(place, token_kit if kit is token_kit else open_kit, Settings(token=token)).close()
            (place / name).write_bytes(data)
            state = State(place, kit, Settings())
            try:
                read(state)
            finally:
                state.close()

        return decode

    token = folder / "token"
    token.write_text("secret\n")

    def offered(state: State) -> None:
        offer = state.read_offer()
        if offer is not None:
            offer.name()
            if not isinstance(offer.settings(), dict):
                raise AssertionError("a config that is no object")

    model = b"model"
    digest = hashlib.sha256(model).hexdigest()

    def same(state: State) -> None:
        if state.read_model(digest) != model:
            raise AssertionError("another model than the session names")

    parties = parties_for(secagg.SecAgg(), 4).enrolled()
    with secagg.PartyFolder(folder / "party") as party:
        roster, identity = parties.roster, parties.identities["c1"]
        party.client(parties.task, "c1", session=b"one", roster=roster, identity=identity)
        (named,) = (folder / "party" / "sessions").glob("*.session")

        def sessions(data: bytes) -> None:
            named.write_bytes(data)
            with secagg.PartyFolder(folder / "party") as again:
                again.sessions(parties.task, "c1")

    refused = (ConfigError,)
    kept_files = [
        Decoder("accepted offer", kept("offer.json", open_kit, offered), [samples["offer"]], refused, json_tree),
        Decoder(
            "id and token",
            kept("joined.json", open_kit, lambda state: None),
            [samples["joined"]],
            refused,
            json_tree,
        ),
        Decoder("join token", kept("token", token_kit, lambda state: None), [b"secret\n"], refused),
        Decoder("downloaded model", kept(f"model-{digest}", open_kit, same), [model], refused),
        Decoder("name of a session", sessions, [b"one"], refused),
    ]
    return [replace(decoder, slow=True) for decoder in kept_files]


def _settings(folder: Path) -> list[Decoder]:
    """``service.toml`` as ``secagg kit`` reads it."""
    path = folder / "service.toml"

    def read(path: Path) -> None:
        settings = _Settings(path, None)
        for name in ("url", "ca"):
            settings.text(name, of_service=True)
        for name in ("file", "roster", "registrar"):
            settings.file(name)

    return [Decoder("service.toml of a kit", _reading(path, read), [TOML], (ConfigError,), toml)]


TOML = b"""
[service]
folder = "state"
url = "https://agg.example.org:8443"
listen = "0.0.0.0:8443"
status = "127.0.0.1:8081"
certificate = "server.crt"
key = "server.key"
limits = { connections = 100, idle_seconds = 60.5 }

[[task]]
file = "task.bin"
roster = "roster.json"
rounds = 20
config = { epochs = 1, deep = [[1], [2]] }
schedule = { cohort = 8, deadline = 30.0, deadlines = { MaskedInput = 60 } }
"""


def toml(mutator: Mutator, data: bytes) -> bytes:
    """A value in its place replaced by another."""
    rng = mutator.rng
    lines = data.split(b"\n")
    place = rng.choice([number for number, line in enumerate(lines) if b" = " in line])
    name, _, value = lines[place].partition(b" = ")
    odd = (
        *(b"0", b"-1", b"nan", b"inf", b"1e999", b"true", b"''", b'""', b"[]", b"{}", b"[[[]]]", b"1979-05-27"),
        *(
            b"9" * 5000,
            b"[" * 3000,
            b"{a=" * 3000,
            b'"0:' + b"9" * 5000 + b'"',
            b'"[::1]:0"',
            b'"a:\xd9\xa1"',
            b'"\xff"',
        ),
    )
    lines[place] = name + b" = " + rng.choice((*odd, value + value, mutator.octets(value)))
    return b"\n".join(lines)
