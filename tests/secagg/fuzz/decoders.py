"""Every decoder, each with inputs that were valid once and the one kind of error that it may raise."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

import secagg
from he import kahe
from he.errors import CiphertextError, HEError, OpenError
from mpc import hpke
from mpc.errors import MPCError
from mpc.keys import TAG_BYTES
from secagg import packing, wire
from secagg.bitmap import from_bitmap, to_bitmap
from secagg.enrolment import load_request, request_enrolment
from secagg.errors import ConfigError, EncodingError, LocalProtocolError
from secagg.federated import FedAdam, PublicMask, Residual
from secagg.identity import Party, PartyRole, Roster, load_identity, load_roster
from secagg.kit import Kit
from secagg.merkle import merkle_levels, merkle_path, root_of_path
from secagg.registrar import sign_roster, verify_signature
from secagg.roles.state import _state_checksum
from secagg.store import FileLedger, FileStore, MemoryLedger, split_rows
from secagg.table import Refusal
from secagg.testing import MemoryStore, Session
from tests.secagg.fuzz import http
from tests.secagg.fuzz.mutate import Mutator
from tests.secagg.fuzz.roles import STRANGER, Case
from tests.secagg.fuzz.tally import Tally

ANY_LIMIT = 1 << 20


@dataclass(frozen=True)
class Decoder:
    """``decode`` gets mutated ``samples`` and may raise ``refusals`` only; ``change`` knows the format."""

    name: str
    decode: Callable[[bytes], object]
    samples: Sequence[bytes]
    refusals: tuple[type[Exception], ...]
    change: Callable[[Mutator, bytes], bytes] | None = None
    slow: bool = False  # waits for the disk, and gets fewer inputs

    def run(self, count: int, rng: Random, tally: Tally) -> None:
        """Try ``count`` inputs."""
        mutator = Mutator(rng, self.samples)
        for _ in range(count):
            data = rng.choice(self.samples)
            if self.change is not None and rng.random() < 0.6:
                data = self.change(mutator, data)
            else:
                data = mutator.octets(data)
            self.feed(data, tally)

    def feed(self, data: bytes, tally: Tally) -> str:
        """Decode ``data``; what came of it."""
        tally.trying(data)
        try:
            self.decode(data)
        except self.refusals as refused:
            outcome = str(getattr(refused, "kind", "refused"))
        except Exception as error:
            outcome = f"escaped {type(error).__name__}"
            tally.finding(self.name, outcome, data, repr(error))
            return outcome
        else:
            outcome = "read"
        tally.count(self.name, outcome)
        return outcome


def decoders(cases: Sequence[Case], folder: Path) -> list[Decoder]:
    """All of them; ``folder`` is for those that read files."""
    messages = [message for case in cases for message in case.pool]
    listed = [
        Decoder("envelope", _envelope, messages, (wire.Reject,), _message),
        *_schemas(cases),
        Decoder("task", secagg.Task.from_bytes, _tasks(cases), (ConfigError,), _canonical),
        Decoder("roster", _roster(folder / "roster.json"), _rosters(cases), (ConfigError,), json_tree),
        *_enrolment(folder, _rosters(cases)[0].decode()),
        Decoder("messages of a poll", http.frames, http.frame_samples(), (ConfigError,)),
        Decoder("model", http.read_model, http.model_samples(), (ConfigError,)),
        Decoder("problem", http.problem, http.problem_samples(), (), json_tree),
        *(
            Decoder(f"document {kind.__name__}", http.document(kind), samples, (ConfigError,), json_tree)
            for kind, samples in http.document_samples().items()
        ),
        Decoder("identity", _identity(folder / "key.pem"), _keys(), (ConfigError,), _pem),
        _packed(),
        *_one_time_keys(),
        *_sealed(),
        _bitmap(),
        _path(),
        _optimizer(),
        _residual(),
        _rows(folder),
        Decoder("store", _store(folder), [bytes(8) + hashlib.sha256(b"state").digest() + b"state"], (ConfigError,)),
    ]
    for case in cases:
        listed += _states(case)
    return listed


def _envelope(data: bytes) -> None:
    envelope = wire.Envelope.parse(data, ANY_LIMIT)
    key = envelope.task if len(envelope.trailer) == wire.SIGNATURE_BYTES else None
    envelope.verify(key)


def _message(mutator: Mutator, data: bytes) -> bytes:
    return mutator.message(data)


def _schemas(cases: Sequence[Case]) -> list[Decoder]:
    """The structured part of every type of message, each fed with all of them."""
    kinds: dict[str, type[wire.Message]] = {"Abort": wire.Abort, "Refusal": Refusal}
    for case in cases:
        for phase in case.parties.protocol.phases:
            kinds |= {kind.__name__: kind for kind in (phase.request, phase.reply)}
    refusal = wire.seal_envelope(
        Refusal(bytes(32)),
        protocol=1,
        task=bytes(32),
        session=bytes(32),
        sender="c1",
        payload=b"",
        identity=STRANGER,
    )
    messages = [refusal, *(message for case in cases for message in case.pool)]

    def opener(kind: type[wire.Message]) -> Callable[[bytes], object]:
        return lambda data: wire.Envelope.parse(data, ANY_LIMIT).open(kind)

    return [
        Decoder(f"schema {name}", opener(kind), messages, (wire.Reject,), _message) for name, kind in kinds.items()
    ]


def _tasks(cases: Sequence[Case]) -> list[bytes]:
    tasks = [case.parties.task for case in cases]
    nested = {"layers": [{"w": np.zeros((2, 3), np.float16)}, {"w": np.zeros(4)}], 7: np.zeros((), np.int32)}
    layout = secagg.Layout.of({"a": (nested["layers"], {}), "b": np.zeros(3, np.float32)})
    clips = {leaf.name: 0.5 for leaf in layout.leaves}
    tasks.append(cases[0].parties.make_task(layout=layout, encoding=secagg.FixedPoint(clip=clips)))
    return [task.to_bytes() for task in tasks]


def _canonical(mutator: Mutator, data: bytes) -> bytes:
    """A task with one node of its tree changed and all lengths right."""

    def parse(data: bytes) -> list[list[Any]]:
        nodes, at = [], 0
        while at < len(data):
            end = at + 5 + int.from_bytes(data[at + 1 : at + 5], "big")
            body = data[at + 5 : end]
            nodes.append([data[at : at + 1], parse(body) if data[at] in b"td" else body])
            at = end
        return nodes

    def write(nodes: list[list[Any]]) -> bytes:
        bodies = [write(body) if isinstance(body, list) else body for _, body in nodes]
        return b"".join(
            tag + len(body).to_bytes(4, "big") + body for (tag, _), body in zip(nodes, bodies, strict=True)
        )

    rng, tree = mutator.rng, parse(data)
    every = [tree]
    for children in every:
        every += [body for _, body in children if isinstance(body, list)]
    for _ in range(rng.choice((1, 1, 2))):
        siblings = rng.choice([children for children in every if children])
        place = rng.randrange(len(siblings))
        tag, body = siblings[place]
        match rng.randrange(5):
            case 0:
                del siblings[place]
            case 1:
                siblings.insert(
                    place, deepcopy(rng.choice(rng.choice([children for children in every if children])))
                )
            case 2:
                siblings[place] = [rng.choice((b"N", b"b", b"i", b"f", b"s", b"y", b"t", b"d", b"x")), body]
            case 3:
                names = (b"Task", b"Layout", b"Leaf", b"FixedPoint", b"SecAgg", b"AdditiveShares", b"os")
                siblings[place] = [b"s", rng.choice(names)]
            case _ if isinstance(body, bytes):
                fresh = (mutator.octets(body), rng.randbytes(16), b"\x7f" + b"\xff" * 7, b"\x80" + bytes(7), b"\1")
                siblings[place] = [tag, rng.choice(fresh)]
    return write(tree)


def _rosters(cases: Sequence[Case]) -> list[bytes]:
    rosters = [case.parties.roster.to_json().encode() for case in cases if case.parties.roster is not None]
    document = json.loads(rosters[0])
    document["parties"]["c1"]["encryption_key"] = base64.b64encode(bytes(32)).decode()
    return [*rosters, json.dumps(document).encode()]


_TOKEN = re.compile(rb'"[^"]*"|-?[0-9][0-9.eE+-]*')
_ODD_JSON = (
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"-0.5", b"0.5", b"9" * 400, b"9" * 5000, b"1e-400", b"true", b"null"),
    *(
        b"[" * 20_000,
        b'{"a":' * 20_000,
        b'"\\ud800"',
        b'"\\u0000"',
        b'"' + b"x" * 5000 + b'"',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
    ),
)


def json_tree(mutator: Mutator, data: bytes) -> bytes:
    """JSON with a node changed, or with one number or text replaced by what few parsers expect."""
    if mutator.rng.random() < 0.2:
        tokens = list(_TOKEN.finditer(data))
        if tokens:
            start, end = mutator.rng.choice(tokens).span()
            return data[:start] + mutator.rng.choice(_ODD_JSON) + data[end:]
    try:
        text = json.dumps(mutator.tree(json.loads(data)), default=lambda value: value.hex())
    except TypeError:  # a key that JSON doesn't have
        return mutator.octets(data)
    return text.encode()


def _roster(path: Path) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        Roster.from_json(data.decode(errors="surrogateescape"))
        path.write_bytes(data)
        return load_roster(path)

    return read


def _enrolment(folder: Path, roster: str) -> list[Decoder]:
    """Requests, signatures of a roster, kits: what is read is what was signed, and is written alike."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = key.public_key().public_bytes_raw()
    asking = [Party("c1", PartyRole.CLIENT, public), Party("a1", PartyRole.AGGREGATOR, public, bytes(range(32)))]
    signature = sign_roster(
        Roster.from_json(roster), STRANGER, version=3, expires=1 << 31, ledger=MemoryLedger()
    ).encode()
    registrar = STRANGER.public_key().public_bytes_raw()
    pins: list[dict[str, Any]] = [
        {"registrar": public, "roster": "ab" * 32},
        {"trust": "semi-honest"},
        {"auth": "tokens"},
    ]
    kits = [Kit(party="c1", url="https://[::1]:8443/x", task="cd" * 32, **pin).to_json().encode() for pin in pins]

    def request(data: bytes) -> None:
        (folder / "c1.enrol").write_bytes(data)
        if load_request(folder / "c1.enrol") not in asking:
            raise AssertionError("a request that its party didn't sign")

    def signed(data: bytes) -> None:
        read = verify_signature(roster, data, registrar=registrar, now=0)
        if (read.version, read.expires) != (3, 1 << 31):
            raise AssertionError("a signature of what the registrar didn't sign")

    def kit(data: bytes) -> None:
        (folder / "c1.kit").write_bytes(data)
        read = Kit.load(folder / "c1.kit")
        if Kit.from_json(read.to_json()) != read:
            raise AssertionError("one kit in two ways")

    requests = [request_enrolment(party, key).encode() for party in asking]
    return [
        Decoder("request to be enrolled", request, requests, (ConfigError,), json_tree),
        Decoder("signature of a roster", signed, [signature], (ConfigError,), json_tree),
        Decoder("kit", kit, kits, (ConfigError,), json_tree),
    ]


def _keys() -> list[bytes]:
    pkcs8 = (Encoding.PEM, PrivateFormat.PKCS8)
    return [
        Ed25519PrivateKey.from_private_bytes(bytes(range(32))).private_bytes(*pkcs8, NoEncryption()),
        Ed25519PrivateKey.from_private_bytes(bytes(range(32))).private_bytes(*pkcs8, BestAvailableEncryption(b"x")),
        ec.derive_private_key(5, ec.SECP256R1()).private_bytes(*pkcs8, NoEncryption()),
        x25519.X25519PrivateKey.from_private_bytes(bytes(range(32))).private_bytes(*pkcs8, NoEncryption()),
    ]


def _pem(mutator: Mutator, data: bytes) -> bytes:
    """A key whose DER is changed inside an armour that holds."""
    first, *armoured, last = data.strip().split(b"\n")
    der = mutator.octets(base64.b64decode(b"".join(armoured)))
    return b"\n".join((first, base64.b64encode(der), last, b""))


def _identity(path: Path) -> Callable[[bytes], object]:
    def read(data: bytes) -> object:
        path.write_bytes(data)
        return load_identity(path)

    return read


def _packed() -> Decoder:
    """Width and length are of the caller, so the first two bytes only choose among them."""

    def read(data: bytes) -> None:
        bits, length = 1 + data[0] % 64 if data else 1, data[1] if len(data) > 1 else 0
        total = np.zeros(length, packing.lane_dtype(bits))
        try:
            packing.unpack_add(data[2:], bits, total)
        except EncodingError:
            if total.any():
                raise AssertionError("a refused vector was added") from None
            raise

    lanes = np.arange(40, dtype=np.uint64)
    samples = [bytes([bits - 1, 40]) + packing.pack(lanes, bits) for bits in (2, 7, 16, 33, 62)]
    return Decoder("packed vector", read, samples, (EncodingError,))


def _one_time_keys() -> list[Decoder]:
    """Vectors and sums under keys that add up; none that is refused changes the sum."""
    scheme = kahe.Scheme(((150, 254), (1, 1000)), 3)
    values = [np.arange(150), np.array([7])]
    uploads = [scheme.encrypt(values, bytes([place]) * 32, bytes(32)) for place in range(3)]
    keys = sum(scheme.key(bytes([place]) * 32, bytes(32)).astype(np.int64) for place in range(2))
    adder, states = scheme.adder(), [scheme.adder().to_bytes()]
    for upload in uploads[:2]:
        adder.fold(upload)
        states.append(adder.to_bytes())
    before = states[-1]

    def fold(data: bytes) -> None:
        running = scheme.load_adder(before)
        try:
            running.fold(data)
        except CiphertextError:
            if running.to_bytes() != before:
                raise AssertionError("a refused vector was added") from None
            raise

    def restore(data: bytes) -> None:
        if scheme.load_adder(data).to_bytes() != data:
            raise AssertionError("one sum in two ways")

    def opened(data: bytes) -> None:
        sums = scheme.open(data, keys, 2, bytes(32))
        bounds = [bound for _, bound in scheme.segments]
        if any(array.min() < 0 or array.max() > 2 * bound for array, bound in zip(sums, bounds, strict=True)):
            raise AssertionError("a sum was opened that two vectors can't have")

    return [
        Decoder("vector under a one-time key", fold, uploads, (CiphertextError,)),
        Decoder("sum under one-time keys", opened, [adder.total()], (OpenError,)),
        Decoder("state of a sum under one-time keys", restore, states, (HEError,)),
    ]


def _sealed() -> list[Decoder]:
    """Sealed input shares, opened with a key of either kind."""
    listed = []
    for kem in hpke.Kem:
        key = hpke.PrivateKey(kem, bytes(range(32)))
        samples = [hpke.seal(kem, key.public, bytes(size), info=b"fuzzed") for size in (0, 32, 100)]
        opener = partial(key.open, info=b"fuzzed")
        listed.append(Decoder(f"sealed share {kem}", opener, samples, (MPCError,)))
    return listed


def _bitmap() -> Decoder:
    """A subset of so many clients as the first byte says."""

    def read(data: bytes) -> None:
        everyone = wire.stand_in_ids(data[0] % 40 if data else 0)
        if to_bitmap(from_bitmap(data[1:], everyone), everyone) != data[1:]:
            raise AssertionError("one subset in two ways")

    return Decoder("bitmap", read, [b"\5\x1b", b"\x08\xff", b"\x13\1\2\4", b"\0"], (wire.Reject,))


def _path() -> Decoder:
    """The way from a leaf to the root; only the true leaf in the true place has it."""
    leaves = [bytes([place]) for place in range(11)]
    levels = merkle_levels(leaves)

    def read(data: bytes) -> None:
        index, path = data[0] if data else 0, data[1:]
        for place, leaf in enumerate(leaves):
            root = root_of_path(leaf, index, len(leaves), path)
            if root == levels[-1][0] and (index, path) != (place, merkle_path(levels, place)):
                raise AssertionError("another leaf, place or path led to the root")

    return Decoder("inclusion path", read, [bytes([i]) + merkle_path(levels, i) for i in range(11)], ())


def _optimizer() -> Decoder:
    """The state of a server optimizer; what is read is written alike."""
    model, optimizer = {"b": np.zeros(3), "w": np.ones((2, 2), np.float32)}, FedAdam(0.1)
    state = optimizer.start(model)
    samples = [state.to_bytes()]
    for _ in range(2):
        model, state = optimizer.step(model, model, state, noise_std=0.1)
        samples.append(state.to_bytes())

    def read(data: bytes) -> None:
        if optimizer.restore(data, model).to_bytes() != data:
            raise AssertionError("one state in two ways")

    def change(mutator: Mutator, data: bytes) -> bytes:
        """One with a checksum that holds."""
        label = b"secagg/v1/optimizer"
        body = mutator.octets(data[len(label) + 32 :])
        return label + hashlib.sha256(body).digest() + body

    return Decoder("optimizer state", read, samples, (ConfigError,), change)


def _residual() -> Decoder:
    """What a client held back; what is read is written alike."""
    layout = secagg.Layout.of({"b": np.zeros(3), "w": np.ones((2, 2), np.float32)})
    mask, residual = PublicMask(layout, 3), Residual(layout)
    samples = [residual.to_bytes()]
    for number in range(2):
        update = {"b": np.arange(3.0), "w": np.full((2, 2), -0.5)}
        _, residual = residual.compress(mask, update, mask.session(b"round %d" % number))
        samples.append(residual.to_bytes())

    def read(data: bytes) -> None:
        if Residual.from_bytes(data, layout).to_bytes() != data:
            raise AssertionError("one residual in two ways")

    header = len(samples[0]) - 8 * layout.size
    return Decoder(
        "residual",
        read,
        samples,
        (ConfigError,),
        lambda mutator, data: data[:header] + mutator.octets(data[header:]),
    )


def _store(folder: Path) -> Callable[[bytes], object]:
    def read(data: bytes) -> None:
        (folder / "ledger").write_bytes(data)
        ledger = FileLedger(folder / "ledger")
        ledger.claim(bytes(32), bytes(32))
        ledger.close()
        (folder / "state").write_bytes(data)
        FileStore(folder / "state").load()

    return read


def _rows(folder: Path) -> Decoder:
    """What follows a saved state: in a store's file of rows, and in what the store gives back."""
    store = FileStore(folder / "kept")
    store(1, b"state")
    assert store.append(2, b"row")
    assert store.append(3, b"another")
    path, kept = folder / "kept.rows", store.load()
    assert kept is not None

    def read(data: bytes) -> None:
        path.write_bytes(data)
        FileStore(folder / "kept").load()
        split_rows(data)

    return Decoder("rows", read, [path.read_bytes(), kept], (ConfigError,))


def _states(case: Case) -> list[Decoder]:
    """The saved states of the server, a client and everyone else, one of each round."""
    parties, states = case.parties, defaultdict[str, list[bytes]](list)
    session = Session(parties)
    others = [party for party in parties.roles if party == "c1" or party not in parties.cohort]

    def before_answer(party: str, answer: bytes) -> None:
        states["server"].append(session.server.to_bytes())

    def before_request(party: str, request: bytes) -> None:
        states[party].append(session.members[party].to_bytes())

    session.before_request = session.before_relay = before_request
    session.before_answer = before_answer
    session.run()
    states["server"].append(session.server.to_bytes())
    for party in others:
        states[party].append(session.members[party].to_bytes())

    def member(party: str) -> Callable[[bytes], object]:
        return lambda data: session.restore(party, data, save=MemoryStore())

    def server(data: bytes) -> None:
        parties.task.restore_server(data, roster=parties.roster, save=MemoryStore())

    return [
        *(
            Decoder(f"{p} state {case.name}", member(p), states[p], (ConfigError, LocalProtocolError), _state)
            for p in others
        ),
        Decoder(f"server state {case.name}", server, states["server"], (ConfigError,), _state),
    ]


def _state(mutator: Mutator, data: bytes) -> bytes:
    """A state with one field changed under a checksum that holds."""
    start = _checksum_place(data)
    tree = mutator.tree(msgspec.msgpack.decode(data[start + TAG_BYTES :]))
    try:
        fields = msgspec.msgpack.encode(tree)
    except (OverflowError, TypeError, msgspec.MsgspecError):
        return mutator.octets(data)
    return data[:start] + _state_checksum(data[:start], fields) + fields


_PLACES: dict[bytes, int] = {}


def _checksum_place(data: bytes) -> int:
    if data not in _PLACES:
        _PLACES[data] = next(
            at
            for at in range(len(data) - TAG_BYTES)
            if _state_checksum(data[:at], data[at + TAG_BYTES :]) == data[at : at + TAG_BYTES]
        )
    return _PLACES[data]
