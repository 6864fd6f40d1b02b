"""Models on their way to a client: damaged on the disk, from mirrors that fail, and messages without bytes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import secagg
from secagg.api.documents import from_frames
from secagg.api.routes import LARGEST_BATCH
from secagg.remote.offers import BaseOffer
from secagg.remote.requests import Request, Response
from secagg.remote.transport import LostError
from tests.remote.double import Double
from tests.remote.playing import MODEL, Client, closed_folders as closed_folders
from tests.remote.test_client import PARTIES

pytestmark = pytest.mark.usefixtures("closed_folders")


def offered(folder: Path) -> Client:
    """A client that has an offer, and no model yet."""
    double = Double(PARTIES.task, PARTIES.roster, PARTIES.cohort)
    double.offer(MODEL)
    client = Client(PARTIES, "c1", folder, double)
    while client.core.session is None:
        client.step()
    return client


def session_of(client: Client) -> Any:
    assert client.core.session is not None
    return client.core.session


@pytest.mark.parametrize("rest", [0, 5])
def test_a_part_that_a_power_loss_left_damaged_is_downloaded_again(rest: int, tmp_path: Path) -> None:
    client = offered(tmp_path)
    size = session_of(client).offer.model_bytes
    (tmp_path / f"model-{session_of(client).offer.model}.part").write_bytes(bytes(size - rest))
    client.take_up(session_of(client))
    assert client.state.read_model(session_of(client).offer.model) == client.double.sessions[0].model


def test_a_service_that_sends_wrong_bytes_behind_a_damaged_part_is_refused(tmp_path: Path) -> None:
    client = offered(tmp_path)
    offer = session_of(client).offer
    (tmp_path / f"model-{offer.model}.part").write_bytes(bytes(9))
    client.double.sessions[0].model = bytes(offer.model_bytes)
    with pytest.raises(secagg.Refused, match="SHA-256 is not the one in the offer"):
        client.take_up(session_of(client))


def test_a_model_that_changed_on_the_disk_is_not_trained_on_and_comes_again(tmp_path: Path) -> None:
    client = offered(tmp_path)
    session = session_of(client)
    client.take_up(session)
    path = client.state.model_path(session.offer.model)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(secagg.ConfigError, match="changed after its download, so it was deleted; ask the offer"):
        BaseOffer(client.core, session)._read_model(None)
    assert not client.core.has_model(session)
    client.take_up(session)
    assert BaseOffer(client.core, session)._read_model(None).keys() == MODEL.keys()


@pytest.mark.parametrize("failure", ["403", "dead"])
def test_a_mirror_that_fails_sends_the_client_back_to_the_service(failure: str, tmp_path: Path) -> None:
    client = offered(tmp_path)
    mirror = 307, {"location": "https://mirror.example/model"}, b""
    redirects = iter(range(5))
    client.double.before = lambda party, route: mirror if route == "model" and next(redirects, 9) < 9 else None
    honest = client.send

    def send(request: Request) -> Response:
        if not request.target.startswith("https://"):
            return honest(request)
        if failure == "dead":
            raise LostError("nobody is there")
        return Response(int(failure), {"date": "Fri, 01 Jan 2100 00:00:00 GMT"}, b"the link has expired")

    client.send = send  # type: ignore[method-assign]
    client.take_up(session_of(client))
    assert client.core.has_model(session_of(client))


@pytest.mark.parametrize("url", ["https://", "https://[", "https://[::1", "http://a/", "https:///x"])
def test_a_redirect_to_no_address_is_refused(url: str, tmp_path: Path) -> None:
    client = offered(tmp_path)
    client.double.before = lambda party, route: (307, {"location": url}, b"") if route == "model" else None
    with pytest.raises(secagg.Refused, match="expected an address with https"):
        client.take_up(session_of(client))


def test_an_answer_of_empty_messages_takes_no_memory() -> None:
    body = bytes(16 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(secagg.ConfigError, match="got more than 64 messages at once"):
            from_frames(body, LARGEST_BATCH)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
