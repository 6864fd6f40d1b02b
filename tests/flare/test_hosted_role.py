"""Parties that sites host by their settings: a server plays a session again, after the hosts have restarted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.errors import Aborted, ConfigError, LocalProtocolError
from secagg.identity import load_identity, load_roster
from secagg.integrations._shared.hosted import HostedRole
from secagg.session import roster_digest, session_id
from tests.flare.protocols import PROTOCOLS, SITES, enrol, make_task

VICTIM = SITES[-1]
TASK = make_task("AdditiveShares", secagg.Layout.of(np.zeros(5)), secagg.FixedPoint(clip=1.0, bits=24), 1)


def update(site: str) -> Any:
    return np.random.default_rng(SITES.index(site)).uniform(-0.5, 0.5, 5)


def settings_of(folder: Path, site: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "sites" / f"{site}.json").read_text())
    return content


def play(server: Any, ask: Callable[[str, bytes], bytes | None]) -> Any:
    """Play a session; ``ask`` returns a party's answer."""

    def deliver(outbox: Any) -> None:
        for party, data in outbox.items():
            try:
                answer = ask(party, data)
            except LocalProtocolError:
                answer = None
            if answer is not None:
                deliver(server.receive(party, answer))

    outbox = server.start()
    while server.outcome is None:
        deliver(outbox)
        outbox = server.close_round()
    return server.outcome


def two_sums(folder: Path, forget: Callable[[Path], None]) -> tuple[Any, Any]:
    """The outcomes of a session, and of the same session with the victim's report left out.

    In between the hosts restart; ``forget`` is called with the folder of each hosted party.
    """
    hosts = enrol(PROTOCOLS["AdditiveShares"], folder / "keys", folder / "sites")
    roster = load_roster(folder / "keys" / "roster.json")
    settings = {
        party: {"secagg-roster": str(folder / "keys" / "roster.json")} | settings_of(folder, site)["parties"][party]
        for party, site in hosts.items()
    }
    roles = {party: HostedRole(TASK, party, own) for party, own in settings.items()}
    clients = {
        site: TASK.client(
            site, identity=load_identity(folder / "keys" / f"{site}.pem"), roster=roster, session=b"1"
        )
        for site in SITES
    }
    for site, client in clients.items():
        client.contribute(update(site), weight=1)
    reports: dict[str, bytes] = {}

    def ask(party: str, data: bytes) -> bytes | None:
        if party in roles:
            return roles[party].answer(data)
        answer = clients[party].receive(data)
        reports.setdefault(party, answer or b"")
        return answer

    first = TASK.server(SITES, roster=roster, session=b"1")
    nonce: bytes = first.context.state.nonce
    outcome = play(first, ask)
    for party, own in settings.items():
        roles[party].close()
        forget(Path(own["secagg-dir"]))
        roles[party] = HostedRole(TASK, party, own)

    def replay(party: str, data: bytes) -> bytes | None:
        return roles[party].answer(data) if party in roles else reports[party] if party != VICTIM else None

    second = TASK.server(SITES, roster=roster, session=b"1")
    state: Any = second.context.state
    state.nonce = nonce
    state.session_id = state.asked_under = session_id(
        task=TASK.digest, roster=roster_digest(roster), session=b"1", nonce=nonce, cohort=tuple(SITES)
    )
    try:
        return outcome, play(second, replay)
    finally:
        for role in roles.values():
            role.close()


def test_hosts_that_restart_open_no_second_sum_of_a_session(tmp_path: Path) -> None:
    with pytest.raises(Aborted):
        two_sums(tmp_path, lambda folder: None)
    assert (tmp_path / "keys" / "p1" / "ledger").stat().st_size > 0


def test_control_with_a_new_ledger_the_victims_update_is_the_difference(tmp_path: Path) -> None:
    first, second = two_sums(tmp_path, lambda folder: (folder / "ledger").unlink())
    assert set(first.survivors) - set(second.survivors) == {VICTIM}
    np.testing.assert_allclose(first.sum - second.sum, update(VICTIM), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": "client"}, "got role 'client' of party p1; expected aggregator or decryptor"),
        ({"role": "decryptor"}, "got AdditiveShares, which has no decryptor"),
        ({"sealing": "k"}, r"got settings \['role', 'sealing'"),
        ({"secagg-sealing-key": "/nowhere"}, "got no sealing key at /nowhere"),
    ],
)
def test_other_settings_of_a_hosted_party_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    hosts = enrol(PROTOCOLS["AdditiveShares"], tmp_path / "keys", tmp_path / "sites")
    own = settings_of(tmp_path, hosts["p1"])
    with pytest.raises(ConfigError, match=message):
        HostedRole(TASK, "p1", {"secagg-roster": own["secagg-roster"]} | own["parties"]["p1"] | change)


def test_a_job_with_two_tasks_gets_nothing_from_a_host(tmp_path: Path) -> None:
    """The site's operator has set one task in ``privacy.json``; the job has another."""
    pytest.importorskip("nvflare", reason="needs NVFlare: pip install 'secagg[nvflare]'")
    from nvflare.apis.event_type import EventType
    from nvflare.apis.shareable import Shareable

    from secagg.integrations._flare_site import SecureFilter
    from secagg.integrations._flare_ways_out import TOPIC
    from secagg.integrations._shared.statements import write
    from tests.flare.document import policy
    from tests.flare.federation import Site

    hosts = enrol(PROTOCOLS["AdditiveShares"], tmp_path / "keys", tmp_path / "sites")
    other = make_task("AdditiveShares", TASK.layout, secagg.FixedPoint(clip=2.0, bits=24), 1)

    def ask(name: str, mine: secagg.Task) -> dict[str, Any]:
        privacy = policy(SecureFilter(mine).task)
        settings = settings_of(tmp_path, hosts["p1"])
        site = Site(tmp_path / name, hosts["p1"], [SecureFilter(TASK)], lambda *_: None, settings, privacy)
        answer = dict(site.ask(TOPIC, Shareable(write(TASK, party="p1"))))
        site.engine.fire(EventType.END_RUN)
        return answer

    assert ask("one", TASK)["roster"] == load_roster(tmp_path / "keys" / "roster.json").digest
    assert ask("two", other)["refusal"] == "got a message after this site has left the job; its log says why"
