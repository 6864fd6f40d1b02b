"""A service that lies to a client. Four clients are enrolled; the service wants the update of c1.

The client is the real one. Most lies are told to its core, and those about HTTP itself over a real connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import secagg
from secagg import registrar
from secagg.api import documents, routes
from secagg.api.models import write_model
from secagg.api.tokens import Callers
from secagg.errors import Refused
from secagg.identity import Roster
from secagg.kit import Kit
from secagg.remote import core, download, polling, requests, transport
from secagg.remote.requests import Request, Response
from secagg.remote.settings import Settings
from secagg.store import MemoryLedger
from secagg.testing._parties import Parties, parties_for
from tests.remote.double import Double, Open
from tests.remote.playing import MODEL, Client, closed_folders as closed_folders, kit_for, play, update_of
from tests.secagg.adversary.registry import attack, refusal

pytestmark = pytest.mark.usefixtures("closed_folders")

VICTIM = "c1"
PARTIES = parties_for(secagg.SecAgg(), 4).enrolled()
OTHERS = [party for party in PARTIES.cohort if party != VICTIM]
STEP = 1 / 2047  # of the encoding's grid
SECRET = update_of(PARTIES, VICTIM)["w"]


def has_update(vector: Any) -> bool:
    """Whether the service has the victim's update to within a grid step."""
    return bool(np.all(np.abs(np.asarray(vector) - SECRET) <= STEP))


def alone(session: Open, known: Sequence[str] = OTHERS, parties: Parties = PARTIES) -> Any:
    """The victim's update as a service computes it that knows the updates of ``known``."""
    assert session.outcome is not None, session.failed
    return session.outcome.sum["w"] / 9 - sum(update_of(parties, party)["w"] for party in known)


def double_for(parties: Parties = PARTIES) -> Double:
    return Double(parties.task, parties.roster, parties.cohort)


def sent(double: Double, party: str = VICTIM) -> list[str]:
    """The routes by which something of the party has left it, apart from who it is."""
    return [route for one, route, _ in double.requests if one == party and route in ("accept", "upload", "part")]


def uploads(double: Double, party: str) -> list[str]:
    """The messages of sessions that came from the party."""
    return [route for one, route, _ in double.requests if one == party and route in ("upload", "part")]


def declined(double: Double, *parties: str) -> Callable[[], bool]:
    """Whether all of ``parties`` have declined the newest offer."""
    return lambda: set(parties) <= set(double.sessions[-1].declined)


def refused(party: Client, match: str) -> None:
    """The client goes on until it refuses the service."""
    with pytest.raises(Refused, match=match):
        go_on(party)
    party.close()


def go_on(party: Client) -> None:
    for _ in range(200):
        party.go_on()


# Another task, another roster


@attack(
    title="The service serves a task in which it reads every update",
    attacker="the service, which serves the victim another task than the pinned one: the same one with `Clear`",
    defence="the client compares the task's digest with the one in its kit (`Kit.check_task`)",
    control="without the comparison: the victim's update arrives in the clear",
    source="own; a kit's reason to be",
)
class TestAnotherTask:
    def lie(self, folder: Path) -> tuple[Double, Client]:
        task = replace(PARTIES.task, protocol=secagg.Clear(), min_survivors=1)
        double = Double(task, PARTIES.roster, [VICTIM])
        double.address = PARTIES.task.digest
        double.offer(MODEL)
        return double, Client(PARTIES, VICTIM, folder, double)

    def test_refused(self, tmp_path: Path) -> None:
        double, victim = self.lie(tmp_path)
        refused(victim, "another task than the pinned one")
        assert not sent(double)

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Kit, "check_task", lambda self, task: None)
        double, victim = self.lie(tmp_path)
        play([victim], double)
        assert has_update(double.sessions[0].outcome.mean["w"])


def forged() -> Parties:
    """The victim among clients whose keys the service made."""
    made = PARTIES.enrolled(b"the service")
    assert PARTIES.roster is not None
    assert made.roster is not None
    entries = [PARTIES.roster[VICTIM], *(made.roster[party] for party in OTHERS)]
    keys = {**made.identities, VICTIM: PARTIES.identities[VICTIM]}
    return replace(made, roster=Roster(entries), identities=keys)


@attack(
    title="The service serves a roster in which all other clients are its own",
    attacker="the service, which plays the others itself and subtracts their updates",
    defence="the roster must be the one that the kit pins, or one that its registrar signed (`Kit.check_roster`)",
    control="with any roster taken: the sum without the service's own updates is the victim's",
    source="the Sybil attack, Douceur 2002",
)
class TestAnotherRoster:
    def lie(self, folder: Path) -> tuple[Double, list[Client]]:
        double = double_for(forged())
        double.offer(MODEL)
        victim = Client(PARTIES, VICTIM, folder / VICTIM, double)
        return double, [victim, *(Client(forged(), party, folder / party, double) for party in OTHERS)]

    def test_refused(self, tmp_path: Path) -> None:
        double, everyone = self.lie(tmp_path)
        refused(everyone[0], "a roster that nothing vouches for")
        assert not sent(double)

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Kit, "check_roster", lambda self, roster, signature, **_: registrar.read_roster(roster))
        double, everyone = self.lie(tmp_path)
        play(everyone, double)
        assert has_update(alone(double.sessions[0]))


@attack(
    title="The service serves the roster of yesterday, whose keys were stolen and replaced since",
    attacker="the service, which has the old keys of the other clients and plays them",
    defence="the newest version that was seen is in the client's ledger (`registrar._check_newest`)",
    control="without the version's claim: the sum without the updates that the service made is the victim's",
    source="rollback of signed metadata: The Update Framework, Samuel et al. 2010",
)
class TestRosterRolledBack:
    key = Ed25519PrivateKey.generate()

    def sign(self, roster: Roster, version: int, ledger: Any) -> str:
        return registrar.sign_roster(roster, self.key, version=version, expires=time.time() + 1e7, ledger=ledger)

    def lie(self, folder: Path) -> tuple[Double, list[Client]]:
        """The victim has seen the new roster; then it gets the old one."""
        stolen = forged()
        assert stolen.roster is not None
        assert PARTIES.roster is not None
        ledger = MemoryLedger()
        old, new = self.sign(stolen.roster, 1, ledger), self.sign(PARTIES.roster, 2, ledger)
        public = self.key.public_key().public_bytes_raw()
        kits = {p: kit_for(PARTIES, p, roster=None, registrar=public) for p in PARTIES.cohort}
        before = double_for()
        before.signature = new
        victim = Client(PARTIES, VICTIM, folder / VICTIM, before, kits[VICTIM])
        while victim.core.roster is None:
            victim.step()
        victim.close()
        double = double_for(stolen)
        double.signature = old
        double.offer(MODEL)
        victim = Client(PARTIES, VICTIM, folder / VICTIM, double, kits[VICTIM])
        return double, [victim, *(Client(stolen, p, folder / p, double, kits[p]) for p in OTHERS)]

    def test_refused(self, tmp_path: Path) -> None:
        double, everyone = self.lie(tmp_path)
        refused(everyone[0], "got version 1 of the roster after version 2")
        assert not sent(double)

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registrar, "_check_newest", lambda *_: None)
        double, everyone = self.lie(tmp_path)
        play(everyone, double)
        assert has_update(alone(double.sessions[0]))


# Another model, another config


def relu(party: str) -> Any:
    """Training whose gradient is zero where the model is negative."""

    def train(model: Any, config: Any) -> Any:
        return {"w": update_of(PARTIES, party)["w"] * (np.asarray(model["w"]) >= 0) * config.get("rate", 1)}

    return train


@attack(
    title="The service sends the others a model that yields no gradient, so the sum is the victim's update",
    attacker="the service, which serves different bytes under the model's one hash",
    defence="the client checks the SHA-256 of what it downloaded (`Download._check`)",
    control="without the check: the mean, times the number of clients, is the victim's update",
    source="Pasquini, Francati and Ateniese 2022, Eluding Secure Aggregation",
)
class TestAnotherModel:
    def lie(self, folder: Path) -> tuple[Double, list[Client]]:
        double = double_for()
        session = double.offer(MODEL)
        dead = write_model({"w": np.full(5, -1, np.float32)})
        everyone = [Client(PARTIES, party, folder / party, double) for party in PARTIES.cohort]
        for party in everyone:
            party.train = relu(party.party)
            if party.party != VICTIM:
                party.send = _serving(party, dead)  # type: ignore[method-assign]
        assert len(dead) == len(session.model)
        return double, everyone

    def test_refused(self, tmp_path: Path) -> None:
        double, everyone = self.lie(tmp_path)
        refused(everyone[1], "a model whose SHA-256 is not the one in the offer")
        assert not sent(double, everyone[1].party)
        assert not list((tmp_path / everyone[1].party).glob("model-*"))

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def unchecked(self: download.Download) -> bool:
            self._file.flush()
            self._state.keep_part(self._offer.model)
            return True

        monkeypatch.setattr(download.Download, "_check", unchecked)
        double, everyone = self.lie(tmp_path)
        play(everyone, double)
        assert has_update(double.sessions[0].outcome.mean["w"] * len(PARTIES.cohort))


def _serving(party: Client, model: bytes) -> Any:
    """Another model for this client."""
    honest = party.send

    def send(request: Request) -> Response:
        if "/models/" not in request.target:
            return honest(request)
        assert request.sink is not None
        request.sink(model)
        return Response(200, {})

    return send


@attack(
    title="The service sends the others another config, under which their updates are zero",
    attacker="the service, which puts clients with different configs into one session",
    defence="the config is in the session's name, which each client computes (`documents.session_name`)",
    control="with a name over the model alone: the mean, times the number of clients, is the victim's update",
    source="own; after Pasquini, Francati and Ateniese 2022",
)
class TestAnotherConfig:
    def lie(self, folder: Path) -> tuple[Double, list[Client]]:
        double = double_for()
        double.offer(MODEL, config={"rate": 1})
        still = json.dumps({"rate": 0})

        def before(party: str, route: str) -> Any:
            session = double.sessions[0]
            if route != "next" or party == VICTIM or session.server or not double.undecided(session, party):
                return None
            status, headers, _ = double.give_offer(session)
            return status, headers, msgspec.json.encode(msgspec.structs.replace(session.offer, config=still))

        double.before = before
        everyone = [Client(PARTIES, party, folder / party, double) for party in PARTIES.cohort]
        for party in everyone:
            party.train = relu(party.party)
        return double, everyone

    def test_refused(self, tmp_path: Path) -> None:
        double, everyone = self.lie(tmp_path)
        refused(everyone[1], "another session than the one that it describes")
        assert not sent(double, everyone[1].party)

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        honest = documents.session_name
        monkeypatch.setattr(
            documents, "session_name", lambda number, attempt, model, config: honest(number, attempt, model, "")
        )
        double, everyone = self.lie(tmp_path)
        play(everyone, double)
        assert has_update(double.sessions[0].outcome.mean["w"] * len(PARTIES.cohort))


# The same model or session once more


@attack(
    title="The service opens a third session over one model, and leaves another client out of each",
    attacker="the service, which subtracts the sums; clients train alike from one model",
    defence="the client counts the uploads over a model in its ledger (`_rounds.may_upload`, `count_upload`)",
    control="without the count: the difference of the sums is the update of the second client that was left out",
    source="own; see the threat model on differences of sums",
)
class TestThirdSession:
    def lie(self, folder: Path) -> tuple[Double, list[Client]]:
        """Two sessions: of all, and of all but c2. The third is to leave the victim out."""
        double = double_for()
        everyone = [Client(PARTIES, party, folder / party, double) for party in PARTIES.cohort]
        double.offer(MODEL)
        play(everyone, double)
        double.cohort.remove("c2")
        double.offer(MODEL, attempt=2)
        play([party for party in everyone if party.party != "c2"], double)
        double.cohort = ["c2", "c3", "c4"]
        double.offer(MODEL, attempt=3)
        return double, everyone

    def test_refused(self, tmp_path: Path) -> None:
        double, everyone = self.lie(tmp_path)
        before = len(uploads(double, "c3"))
        play(
            [party for party in everyone if party.party in ("c3", "c4")], double, until=declined(double, "c3", "c4")
        )
        assert set(double.sessions[2].declined.values()) == {"this client gives 2 uploads over one model"}
        assert len(uploads(double, "c3")) == before

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(core, "may_upload", lambda *_, **__: True)
        monkeypatch.setattr(core, "count_upload", lambda *_, **__: 1)
        double, everyone = self.lie(tmp_path)
        play(everyone[1:], double)
        assert has_update((double.sessions[0].outcome.sum["w"] - double.sessions[2].outcome.sum["w"]) / 9)


@attack(
    title="The service offers a round again whose session is over, and leaves the victim out of it",
    attacker="the service, which subtracts the second sum from the first",
    defence="the ledger remembers that the session is over (`State.is_over`), in a folder that is not rolled back",
    control="with the other clients' folders made anew: the difference of the sums is the victim's update",
    source="own; the ledger's reason to be",
)
class TestReplayedOffer:
    def lie(self, folder: Path, anew: Path) -> tuple[Double, list[Client]]:
        first = double_for()
        first.offer(MODEL)
        everyone = [Client(PARTIES, party, folder / party, first) for party in PARTIES.cohort]
        play(everyone, first)
        for party in everyone:
            party.close()
        double = double_for()
        double.cohort = OTHERS
        double.sessions = [*first.sessions, Open(first.sessions[0].offer, first.sessions[0].model, "")]
        double.sessions[0].key, double.sessions[1].key = "", first.sessions[0].key
        return double, [Client(PARTIES, party, anew / party, double) for party in OTHERS]

    def test_refused(self, tmp_path: Path) -> None:
        double, everyone = self.lie(tmp_path, tmp_path)
        play(everyone, double, until=declined(double, *OTHERS))
        assert set(double.sessions[1].declined.values()) == {"the session is over for this client"}
        assert not any(uploads(double, party) for party in OTHERS)

    def test_control_succeeds(self, tmp_path: Path) -> None:
        double, everyone = self.lie(tmp_path, tmp_path / "anew")
        play(everyone, double)
        assert has_update((double.sessions[0].outcome.sum["w"] - double.sessions[1].outcome.sum["w"]) / 9)


# Too much


@attack(
    title="The service offers a model of gigabytes, to fill the client's disk",
    attacker="the service, to spoil the client's machine",
    defence="a model is capped at what the task's layout can need (`download.most_model_bytes`)",
    control="without the cap: what the service sends is on the disk",
    source="own",
)
class TestHugeModel:
    huge = bytes(1 << 20)

    def lie(self, folder: Path) -> tuple[Double, Client]:
        double = double_for()
        session = double.offer(MODEL)
        session.offer = msgspec.structs.replace(session.offer, model_bytes=len(self.huge))
        session.key, session.model = documents.session_key(double.address, session.offer.name()), self.huge
        return double, Client(PARTIES, VICTIM, folder, double)

    def test_refused(self, tmp_path: Path) -> None:
        double, victim = self.lie(tmp_path)
        refused(victim, "an offer of a model of 1,048,576 bytes; expected at most")
        assert not any(route == "model" for _, route, _ in double.requests)
        assert not list(tmp_path.glob("model-*"))

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(core, "most_model_bytes", lambda task: 1 << 40)
        _, victim = self.lie(tmp_path)
        monkeypatch.setattr(victim.state, "drop_part", lambda sha256: None)  # the digest is another defence
        refused(victim, "SHA-256")
        assert sum(path.stat().st_size for path in tmp_path.glob("model-*")) == len(self.huge)


@attack(
    title="The service repeats itself under ever new cursors, to keep the client busy",
    attacker="the service, to empty a battery or a data volume",
    defence="a client polls twice a second at most, after the first fifty polls (`Polling.poll`)",
    control="without that: hundreds of requests at one moment",
    source="own",
)
class TestHotPolls:
    def polls_in_a_minute(self, folder: Path, repeats: bool) -> int:
        double = double_for()
        double.offer(MODEL)
        others = [Client(PARTIES, party, folder / party, double) for party in OTHERS]
        client = Client(PARTIES, VICTIM, folder / VICTIM, double)
        while double.sessions[0].server is None:
            for party in [client, *others]:
                party.go_on()
        numbers = itertools.count()

        def lie(party: str, route: str) -> Any:
            if route != "next":
                return None
            if not repeats:
                return 204, {"retry-after": "0"}, b""
            return batch(double.sessions[0].key, double.sessions[0].inboxes[VICTIM][0][1], number=next(numbers))

        double.before, double.requests = lie, []
        start = client.now
        while client.now < start + 60 and len(double.requests) < 2000:
            client.step()
        return sum(route == "next" for _, route, _ in double.requests)

    def test_refused(self, tmp_path: Path) -> None:
        assert self.polls_in_a_minute(tmp_path / "1", repeats=True) <= 50 + 2 * 60 + 1
        assert self.polls_in_a_minute(tmp_path / "2", repeats=False) <= 61

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(polling, "_BURST", math.inf)
        monkeypatch.setattr(polling.Polling, "_polls", math.inf)
        assert self.polls_in_a_minute(tmp_path, repeats=True) > 900


class Flood:
    """A service that answers whatever it is asked with pieces of one kind, over HTTP, until the client hangs up."""

    def __init__(self, piece: bytes, most: int, headers: dict[str, str]) -> None:
        self.piece, self.most = piece, most
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.sent = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        gone = asyncio.ensure_future(_disconnected(receive))
        while self.sent < self.most and not gone.done():
            self.sent += len(self.piece)
            await send({"type": "http.response.body", "body": self.piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})
        await gone

    def join(self, folder: Path) -> str:
        """How a client in this service's hands fails that asks for an id: a small document."""
        from tests.service.serving import served

        with served(self) as url:
            kit = Kit(party=None, url=url, task=PARTIES.task.digest.hex(), auth="open")
            with pytest.raises(Refused) as error, secagg.connect(kit, folder, once=True) as remote:
                next(iter(remote.offers()))
        return str(error.value)


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@attack(
    title="The service sends an answer without an end",
    attacker="the service, to fill the client's memory",
    defence="each answer is read up to what its route can need (`Request.check_head`)",
    control="without the cap: all that the service cared to send is in the client's memory",
    source="own",
)
class TestEndlessAnswer:
    most = 8 << 20

    def test_refused(self, tmp_path: Path) -> None:
        flood = Flood(bytes(1 << 14), self.most, {})
        assert flood.join(tmp_path) == "got an answer of more than 65536 bytes"
        assert flood.sent < self.most  # the rest of what was sent is in the sockets' buffers

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(requests.Request, "check_head", lambda self, status, headers: 1 << 40)
        flood = Flood(bytes(1 << 14), self.most, {})
        assert flood.join(tmp_path) == f"got an answer of {self.most} bytes; expected at most 65536"


@attack(
    title="The service sends a thousand bytes that decompress to a million",
    attacker="the service, to fill the client's memory",
    defence="a compressed answer is refused, and nothing decompresses one (`Request.check_head`, `_Body`)",
    control="with bodies decompressed as the HTTP library does it: the million is in the client's memory",
    source="the zip bomb",
)
class TestCompressedBomb:
    bomb = gzip.compress(bytes(1 << 20))

    def test_refused(self, tmp_path: Path) -> None:
        flood = Flood(self.bomb, 1, {"content-encoding": "gzip"})
        assert "a compressed answer" in flood.join(tmp_path)

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        httpx2 = pytest.importorskip("httpx2")
        monkeypatch.setattr(requests.Request, "check_head", lambda self, status, headers: 1 << 40)
        raw = httpx2.Response.iter_raw
        monkeypatch.setattr(httpx2.Response, "iter_raw", lambda self: iter([gzip.decompress(b"".join(raw(self)))]))
        flood = Flood(self.bomb, 1, {"content-encoding": "gzip"})
        assert flood.join(tmp_path) == f"got an answer of {1 << 20} bytes; expected at most 65536"
        assert flood.sent < 2000


@attack(
    title="The service sets cookies, new ones with each answer",
    attacker="the service, to fill the client's memory and make each of its requests longer",
    defence="a client keeps and sends no cookies (`_NoCookies`)",
    control="with the HTTP library's own jar: they are kept, and sent with the next request",
    source="own",
)
class TestCookies:
    def kept(self) -> tuple[int, list[str]]:
        """How many cookies the client has after two answers, and what it sent."""
        from tests.service.serving import served

        came: list[str] = []

        async def service(scope: Any, receive: Any, send: Any) -> None:
            came.extend(value.decode() for name, value in scope["headers"] if name == b"cookie")
            cookies = [(b"set-cookie", b"%d-%d=%s" % (len(came), one, b"x" * 100)) for one in range(20)]
            await send({"type": "http.response.start", "status": 200, "headers": cookies})
            await send({"type": "http.response.body", "body": b""})

        with served(service) as url:
            http = transport.Http(kit_for(PARTIES, VICTIM, url), Settings())
            for _ in range(2):
                http.send(Request("GET", "/"))
            count = len(http._client.cookies.jar)
            http.close()
        return count, came

    def test_refused(self) -> None:
        assert self.kept() == (0, [])

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "_NoCookies", CookieJar)
        count, (came,) = self.kept()
        assert count == 40
        assert len(came) > 2000


@attack(
    title="The service answers with early hints, one after the other and without an end",
    attacker="the service, to keep the client's processor busy",
    defence="a request ends when its time is over, whatever comes (`_Sockets.end`)",
    control="without that: the client reads on for as long as the service sends",
    source="own",
)
class TestEndlessHead:
    def hints(self, most: int) -> int:
        """How many hints a client takes, which has a second for the request, of the ``most`` that there are."""
        taken: list[int] = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            service = threading.Thread(target=self.hint, args=(listener, most, taken))
            service.start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            http = transport.Http(kit_for(PARTIES, VICTIM, url), Settings())
            with pytest.raises(transport.LostError):
                http.send(Request("GET", "/", seconds=1.0))
            http.close()
            service.join()
        return len(taken)

    def hint(self, listener: socket.socket, most: int, taken: list[int]) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            for number in range(most):
                connection.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n")
                taken.append(number)
                time.sleep(0.01)

    def test_refused(self) -> None:
        assert self.hints(100_000) < 100_000

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport._Sockets, "end", lambda self, late: None)
        assert self.hints(200) == 200  # two seconds of them, at least


# Tokens


@attack(
    title="A redirect takes the client's token to another host",
    attacker="a mirror of models, to call the service as the client",
    defence="a redirect of the model is followed without the token (`Download.next`)",
    control="with the token sent along: the mirror has a token that the service takes",
    source="CVE-2018-18074 and its many siblings",
)
class TestRedirectedToken:
    def stolen(self, folder: Path) -> list[str]:
        """The tokens that the mirror gets."""
        double = double_for()
        session = double.offer(MODEL)
        away = 307, {"location": f"https://mirror.example/{session.offer.model}"}, b""
        double.before = lambda party, route: away if route == "model" else None
        victim = Client(PARTIES, VICTIM, folder, double)
        honest, got = victim.send, []

        def send(request: Request) -> Response:
            if request.target.startswith("https://mirror.example/"):
                got.append(request.headers.get("authorization", ""))
                assert request.sink is not None
                request.sink(session.model)
                return Response(200, {})
            return honest(request)

        victim.send = send  # type: ignore[method-assign]
        while not got:
            victim.go_on()
        victim.close()
        return got

    def is_valid(self, token: str) -> bool:
        assert PARTIES.roster is not None
        callers = Callers(PARTIES.roster, kit_for(PARTIES, VICTIM).url, PARTIES.task.digest, lambda: 1e9)
        try:
            return callers.party(token) == VICTIM
        except secagg.ConfigError:
            return False

    def test_refused(self, tmp_path: Path) -> None:
        assert self.stolen(tmp_path) == [""]

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def following(self: Any, now: float) -> Any:
            request = super(download.Download, self).next(now)
            if isinstance(request, Request):
                target = self._elsewhere or request.target
                return replace(request, target=target, sink=self._sink, begin=self._begin)
            return request

        monkeypatch.setattr(download.Download, "next", following)
        (token,) = self.stolen(tmp_path)
        assert self.is_valid(token)


@attack(
    title="The service says that it is the year 2100, and collects tokens that will be valid then",
    attacker="a person who answers in the service's place today, to call it as the client later",
    defence="a clock is corrected by a `Date` header by at most a day (`SkewedClock.correct`)",
    control="with any date believed: the attacker has a token that is valid in 2100",
    source="own; after attacks on NTP, Malhotra et al. 2016",
)
class TestWildDate:
    then = 4102444800.0

    def tokens(self, folder: Path) -> list[str]:
        double = double_for()
        away = 401, {"date": "Fri, 01 Jan 2100 00:00:00 GMT"}, b""
        double.before = lambda party, route: away
        victim = Client(PARTIES, VICTIM, folder, double)
        refused(victim, "token is missing, expired or not valid")
        return double.authorizations

    def valid_then(self, token: str) -> bool:
        assert PARTIES.roster is not None
        callers = Callers(PARTIES.roster, kit_for(PARTIES, VICTIM).url, PARTIES.task.digest, lambda: self.then)
        try:
            return callers.party(token) == VICTIM
        except secagg.ConfigError:
            return False

    def test_refused(self, tmp_path: Path) -> None:
        tokens = self.tokens(tmp_path)
        assert len(tokens) == 1
        assert not any(self.valid_then(token) for token in tokens)

    def test_control_succeeds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(requests, "_MOST_SKEW", math.inf)
        assert any(self.valid_then(token) for token in self.tokens(tmp_path))


# Refusals


def answering(folder: Path, lie: Any, accepted: bool = True) -> Client:
    """The victim, whose polls are answered by ``lie(double)`` once it has accepted an offer, or at once."""
    double = double_for()
    double.offer(MODEL)
    victim = Client(PARTIES, VICTIM, folder, double)
    while accepted and not double.sessions[0].accepted:
        victim.go_on()
    double.before = lambda party, route: lie(double) if route == "next" else None
    return victim


def batch(session: str, *messages: bytes, number: int = 0, **headers: str) -> Any:
    kind = {"content-type": routes.MESSAGES_TYPE, "secagg-session": session, "secagg-cursor": f"x{number}"}
    return 200, kind | headers, documents.to_frames([(0, data) for data in messages])


LIES: dict[str, tuple[Any, str]] = {
    "messages of a session that was never offered": (
        lambda double: batch("ab" * 32, b"message"),
        "in which this client does not take part",
    ),
    "a proposal of another session under the address of this one": (
        lambda double: batch(double.sessions[0].key, _proposal(double, b"another")),
        "breaks the protocol",
    ),
    "bytes that are not a message": (
        lambda double: batch(double.sessions[0].key, b"SECAGG"),
        "breaks the protocol",
    ),
    "a batch that is cut short": (
        lambda double: (*batch(double.sessions[0].key, b"message")[:2], b"\0\0\0\0\0\0\0\x09message"),
        "cut short in a message",
    ),
    "a thousand messages at once": (
        lambda double: batch(double.sessions[0].key, *[b"m"] * 1000),
        "got more than 64 messages at once",
    ),
    "a cursor that would change the next request": (
        lambda double: batch(double.sessions[0].key, b"m", **{"secagg-cursor": "x&wait=0"}),
        "a cursor that can't stand in a URL",
    ),
    "a page": (lambda double: (200, {"content-type": "text/html"}, b"<h1>hello"), "an answer of type 'text/html'"),
    "a redirect": (lambda double: (302, {"location": "https://elsewhere"}, b""), "got a redirect"),
}


def _proposal(double: Double, name: bytes) -> bytes:
    server = PARTIES.task.server(PARTIES.cohort, roster=PARTIES.roster, session=name)
    return next(iter(server.start().values()))


@refusal(
    title="Answers to a poll that no honest service gives: of other sessions, cut short, too many, redirects",
    why="the role refuses the messages of other sessions, too, and nothing else of an answer is used",
)
@pytest.mark.parametrize("lie", LIES)
def test_what_no_honest_service_answers_is_refused_and_nothing_leaves(lie: str, tmp_path: Path) -> None:
    answer, match = LIES[lie]
    victim = answering(tmp_path, answer)
    refused(victim, match)
    assert sent(victim.double) == ["accept"]


@refusal(
    title="A redirect of the model to an address without TLS",
    why="the digest is checked, whichever server has the bytes; an observer learns which model is fetched",
)
def test_a_model_is_not_fetched_without_tls(tmp_path: Path) -> None:
    victim = answering(tmp_path, lambda double: None, accepted=False)
    away = 307, {"location": "http://mirror.example/model"}, b""
    victim.double.before = lambda party, route: away if route == "model" else None
    refused(victim, "a redirect of the model to 'http://mirror.example/model'; expected an address with https")
    assert not sent(victim.double)


OFFERS: dict[str, dict[str, Any]] = {
    "a digest with another length": {"model": "ab"},
    "a round of number zero": {"number": 0},
    "a config that is not an object": {"config": "[]"},
    "a config nested too deeply": {"config": "[" * 60000},
    "a time that is not a number": {"seconds": 1e999},
}


@refusal(title="Offers whose fields are impossible", why="they name a session that no honest client is in")
@pytest.mark.parametrize("fields", OFFERS)
def test_an_impossible_offer_is_refused(fields: str, tmp_path: Path) -> None:
    def lie(double: Double) -> Any:
        status, headers, _ = double.give_offer(double.sessions[0])
        values = msgspec.to_builtins(double.sessions[0].offer) | OFFERS[fields]
        return status, {"content-type": headers["content-type"]}, json.dumps(values).encode()

    victim = answering(tmp_path, lie, accepted=False)
    refused(victim, "an offer whose fields are impossible|a document that is not a Offer")
    assert not sent(victim.double)
