"""A site of the job that poses as the server of another site, under a task that trusts the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")

from nvflare.apis.fl_constant import ReservedTopic
from nvflare.apis.shareable import Shareable
from nvflare.fuel.f3.cellnet.defs import CellChannel, MessageHeaderKey
from nvflare.fuel.f3.message import Message
from nvflare.fuel.f3.streaming.stream_const import STREAM_CHANNEL, STREAM_DATA_TOPIC, StreamHeaderKey

from secagg._rounds import session_name
from secagg.errors import Aborted
from secagg.integrations import _flare_site
from secagg.integrations._flare_site import SecureFilter
from secagg.integrations._flare_ways_out import TOPIC
from secagg.integrations._shared.statements import write
from secagg.integrations.flare import SecureAggregator
from tests.flare.federation import MODEL, Federation, Site
from tests.flare.scenes import SITES, VICTIM, make_task, train, update

ATTEMPT = 7  # of the session that the peer makes up


def pose_as_the_server(folder: Path) -> Any:
    """The sum of a session that site-1 plays with the victim, and with two sites that it invents."""
    task = make_task("semi-honest")
    sites = [Site(folder, name, [SecureFilter(task)], train) for name in SITES]
    Federation(folder, SecureAggregator(task), sites).round(0)
    (victim,) = (site for site in sites if site.name == VICTIM)
    asked = _flare_site.site_of(task, victim.engine.new_context()).training
    assert asked is not None  # the peer was sent the same model and request, so it knows both digests
    name = session_name("nvflare", 0, ATTEMPT, model=asked.model, request=asked.request)
    invented = {site: task.client(site, session=name) for site in ("site-8", "site-9")}
    for client in invented.values():
        client.contribute({"numpy_key": np.zeros_like(MODEL["numpy_key"])})
    server = task.server([VICTIM, *invented], session=name)

    def deliver(outbox: Any) -> None:
        for party, data in outbox.items():
            if party in invented:
                answer = invented[party].receive(data)
            else:
                message = write(task, number=0, attempt=ATTEMPT, session=name, data=data)
                answer = victim.ask(TOPIC, Shareable(message), sender="site-1").get("data")
            if answer:
                deliver(server.receive(party, answer))

    outbox = server.start()
    while server.outcome is None:
        deliver(outbox)
        outbox = server.close_round()
    return server.outcome.sum["numpy_key"]


def test_a_site_takes_no_message_of_another_site(tmp_path: Path, caplog: Any) -> None:
    with pytest.raises(Aborted):
        pose_as_the_server(tmp_path)
    assert "secagg: dropped a message from 'site-1." in caplog.text


def test_control_without_the_guard_the_peer_has_the_victims_update(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_flare_site, "only_the_server", lambda *_: None)
    np.testing.assert_allclose(pose_as_the_server(tmp_path), update(VICTIM), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [MessageHeaderKey, StreamHeaderKey])
def test_the_guard_drops_our_topic_tasks_and_events_in_streams_too(kind: Any) -> None:
    guards: dict[Any, Any] = {}

    class Cell:
        def add_incoming_request_filter(self, channel: str, topic: str, cb: Any) -> None:
            guards[channel, topic] = cb

    cell = Cell()
    cell.core_cell = cell  # type: ignore[attr-defined]
    _flare_site.only_the_server(cell, "job")
    topics = [(CellChannel.AUX_COMMUNICATION, topic) for topic in (TOPIC, ReservedTopic.DO_TASK, "fed.event")]
    assert guards.keys() == {*topics, (STREAM_CHANNEL, STREAM_DATA_TOPIC)}
    for topic, origin, dropped in [
        (TOPIC, "site-1.job", True), (TOPIC, "server.other", True), (TOPIC, "server", False), (TOPIC, None, True),
        (TOPIC, "server.job", False), ("another", "site-1.job", False),
        (ReservedTopic.DO_TASK, "site-1.job", True), (ReservedTopic.DO_TASK, "server.job", True),
        ("fed.event", "site-1.job", True), ("fed.event", "server.job", True),
    ]:  # fmt: skip
        headers = {kind.CHANNEL: CellChannel.AUX_COMMUNICATION, kind.TOPIC: topic, MessageHeaderKey.ORIGIN: origin}
        for guard in guards.values():
            assert (guard(Message(headers)) is not None) is dropped
