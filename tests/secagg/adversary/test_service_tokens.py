"""Who calls the service: tokens that are forged, stolen or old, and a party that names another.

The attacker wants to speak for the client c1. It declines the offer in c1's name, so that c1 is never in a sum. An
upload in c1's name would be refused in any case, by the signature in the message.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import jwt
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import secagg
from secagg.api import routes, tokens
from secagg.identity import enrol
from secagg.service import Schedule, Service, handlers, service as service_module
from secagg.service.callers import Caller
from tests.secagg.adversary.registry import attack

OWN = "our own"
VICTIM, OTHER, THIRD = "c1", "c2", "c3"
KEYS, ROSTER = enrol([VICTIM, OTHER, THIRD])
TASK = secagg.Task(
    protocol=secagg.SecAgg(threat_model="semi-honest"),
    layout=secagg.Layout.of({"w": np.zeros(4)}),
    encoding=secagg.FixedPoint(clip=1.0, bits=16),
    max_clients=3,
    min_survivors=3,
)


class Scene:
    """A service that offers a round to c1 and c2."""

    def __init__(self, folder: Path) -> None:
        self.service = Service(folder, status=None)
        self.service.add(TASK, roster=ROSTER, schedule=Schedule(gather=60))

    @contextmanager
    def offered(self) -> Iterator[None]:
        with self.service:
            threading.Thread(target=self._round, daemon=True).start()
            while self.run.gathering is None:
                time.sleep(0.01)
            yield

    def _round(self) -> None:
        with pytest.raises(secagg.Aborted):  # the service stops first
            self.service.round({"w": np.zeros(4)})

    @property
    def run(self) -> Any:
        return self.service._run(None)

    def token(self, party: str = VICTIM, url: str | None = None, now: float | None = None) -> str:
        return tokens.sign_token(party, KEYS[party], url or self.service.url, TASK.digest, now or time.time())

    def decline(self, token: str, party: str = VICTIM) -> int:
        """Decline the offer in the name of ``party``; the status of the answer."""
        path = routes.BY_NAME["accept"].url(task=self.run.key, party=party, session=self.run.gathering.key)
        url, headers = self.service.url + path, {"authorization": f"Bearer {token}"}
        return httpx2.put(url, json={"accept": False}, headers=headers, trust_env=False).status_code


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(service_module, "warm", lambda task: None)
    return Scene(tmp_path)


def test_the_victims_own_token_is_taken(scene: Scene) -> None:
    with scene.offered():
        assert scene.decline(scene.token()) == 202
        assert scene.run.gathering.declined == {VICTIM}


def claims(scene: Scene, lasts: int = 200) -> dict[str, Any]:
    now = int(time.time())
    audience = tokens.audience(scene.service.url, TASK.digest)
    return {"sub": VICTIM, "aud": audience, "iat": now, "exp": now + lasts, "jti": "0"}


def header_decides(token: str, key: Any = b"", **options: Any) -> Any:
    """A verifier that does what the token's header says."""
    algorithm = jwt.get_unverified_header(token)["alg"]
    if not isinstance(key, Ed25519PublicKey):
        return real_decode(token, **options)
    if algorithm == "none":
        return real_decode(token, options={"verify_signature": False})
    return real_decode(token, key.public_bytes_raw(), **(options | {"algorithms": [algorithm]}))


real_decode = jwt.decode


def attempt(scene: Scene, key: bytes | None, algorithm: str) -> tuple[int, set[str]]:
    """The status of an attack with a forged token, and who is then out of the round."""
    with scene.offered():
        status = scene.decline(jwt.encode(claims(scene), key, algorithm=algorithm))
        return status, set(scene.run.gathering.declined)


@attack(
    title="A token under a symmetric algorithm, with the public key as its secret",
    attacker="anyone who has the roster",
    defence="the service fixes the algorithm; the token's header decides nothing",
    control="the header decides: the attacker speaks for a client",
    source="RFC 8725, section 2.1",
)
class TestSymmetricToken:
    def test_refused(self, scene: Scene) -> None:
        assert attempt(scene, ROSTER[VICTIM].signing_key, "HS256") == (401, set())

    def test_control_succeeds(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokens.jwt, "decode", header_decides)
        assert attempt(scene, ROSTER[VICTIM].signing_key, "HS256") == (202, {VICTIM})


@attack(
    title="A token without a signature",
    attacker="anyone",
    defence="as above",
    control="the header decides: the attacker speaks for a client",
    source="RFC 8725, section 2.1",
)
class TestUnsignedToken:
    def test_refused(self, scene: Scene) -> None:
        assert attempt(scene, None, "none") == (401, set())

    def test_control_succeeds(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokens.jwt, "decode", header_decides)
        assert attempt(scene, None, "none") == (202, {VICTIM})


@attack(
    title="A token that the victim signed for another service or task",
    attacker="the operator of the other service",
    defence="a token names the service and the task that it is for",
    control="the audience is not compared: the other operator speaks for the client here",
    source="RFC 7519, section 4.1.3",
)
class TestTokenOfAnotherService:
    def test_refused(self, scene: Scene) -> None:
        with scene.offered():
            other = tokens.sign_token(VICTIM, KEYS[VICTIM], scene.service.url, bytes(32), time.time())
            for token in (scene.token(url="https://other.example:8443"), other):
                assert scene.decline(token) == 401
            assert not scene.run.gathering.declined

    def test_control_succeeds(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        def any_audience(token: str, key: Any = b"", **options: Any) -> Any:
            options.pop("audience", None)
            return real_decode(token, key, **options | {"options": options["options"] | {"verify_aud": False}})

        monkeypatch.setattr(tokens.jwt, "decode", any_audience)
        with scene.offered():
            assert scene.decline(scene.token(url="https://other.example:8443")) == 202
            assert scene.run.gathering.declined == {VICTIM}


@attack(
    title="An old token, from a log or a backup",
    attacker="anyone who finds one",
    defence="a token is valid for five minutes, whatever it says itself",
    control="the time is not compared: the finder speaks for the client",
    source="RFC 7519, section 4.1.4",
)
class TestOldToken:
    def test_refused(self, scene: Scene) -> None:
        with scene.offered():
            lasting = jwt.encode(claims(scene, 10**6), KEYS[VICTIM], algorithm="EdDSA")
            for token in (scene.token(now=time.time() - 3600), lasting):
                assert scene.decline(token) == 401
            assert not scene.run.gathering.declined

    def test_control_succeeds(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokens, "_LEEWAY", 1e9)
        with scene.offered():
            assert scene.decline(scene.token(now=time.time() - 3600)) == 202
            assert scene.run.gathering.declined == {VICTIM}


@attack(
    title="A party that names another in the path",
    attacker="a client with a token of its own",
    defence="the party is the one that signed the token, and the path has to name the same",
    control="the path decides: one client speaks for another",
    source=OWN,
)
class TestAnothersPath:
    def test_refused(self, scene: Scene) -> None:
        with scene.offered():
            assert scene.decline(scene.token(OTHER), VICTIM) == 403
            assert not scene.run.gathering.declined

    def test_control_succeeds(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        def by_the_path(self: handlers.Handlers, request: Any) -> Caller:
            run = self._run(request)
            self._serving.open_doors().party(run, request.headers.get("authorization"))
            return Caller(run, request.path_params["party"])

        monkeypatch.setattr(handlers.Handlers, "_caller", by_the_path)
        with scene.offered():
            assert scene.decline(scene.token(OTHER), VICTIM) == 202
            assert scene.run.gathering.declined == {VICTIM}
