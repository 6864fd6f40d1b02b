"""Whole rounds over HTTP, with every protocol: the outcome is the one that a simulation has."""

import contextlib
import logging
from pathlib import Path
from typing import Any

import pytest

import secagg
from secagg.api import documents
from secagg.errors import ConfigError
from secagg.service import Schedule, Service, requests
from tests.secagg.adversary.test_oneshot_drawn import BEACON, ROUND, published
from tests.service.plain import Enrolled, Party, hurry, make_task, playing, serving, update_of

ONE_SHOT = secagg.OneShot(members=4, corrupt_members=1, kem="X25519")
DRAWN = secagg.DrawnOneShot(4, 1, kem="X25519", enrolled=5, member_corruption=0.2, beacon=BEACON, draw_round=ROUND)
PROTOCOLS = {
    "Clear": secagg.Clear(),
    "SecAgg": secagg.SecAgg(corruption=0.17),
    "SecAgg, semi-honest": secagg.SecAgg(threat_model="semi-honest"),
    "SecAggPlus": secagg.SecAggPlus(),
    "AdditiveShares": secagg.AdditiveShares(),
    "Paillier": secagg.Paillier(bits=2048),
    "Paillier, run key": secagg.Paillier(bits=2048, key="run"),
    "OneShot": ONE_SHOT,
    "BFV": secagg.BFV(),
    "CKKS": secagg.CKKS(),
}


def rounds_of(protocol: Any) -> list[str]:
    return [str(phase.round) for phase in protocol.phases if str(phase.role) == "client"]


CASES = [(name, silent) for name in PROTOCOLS for silent in [None, *rounds_of(PROTOCOLS[name])]]


@pytest.mark.parametrize(("name", "silent"), CASES)
def test_the_outcome_is_that_of_a_simulation(
    name: str, silent: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if silent is None:
        monkeypatch.setattr(requests, "_IN_MEMORY", 0)  # bytes: all requests are in files, as large ones are
    task = make_task(PROTOCOLS[name], max_weight=7)
    enrolled = Enrolled(task, 6)
    updates = {party: update_of(number) for number, party in enumerate(enrolled.clients)}
    weights = {party: 1 + number for number, party in enumerate(enrolled.clients)}
    dropouts = {} if silent is None else {"c3": silent}
    expected = secagg.simulate(task, updates, weights=weights, dropouts=dropouts)
    with serving(tmp_path, enrolled) as service:
        parties = [
            Party(
                enrolled,
                party,
                service.url,
                lambda offer, model, party=party: (updates[party], weights[party]),
                silent=dropouts.get(party),
            )
            for party in enrolled.roles
        ]
        with playing(service, *parties):
            hurry(service, "c3", silent)
            outcome = service.round({"w": updates["c1"]["w"]}, config={"lr": 0.5})
            service.finish(wait=0)
        assert all(status == 200 for party in parties for *_, status in party.uploads)
    assert secagg.Outcome.__eq__(outcome, secagg.Outcome(**{f: getattr(expected, f) for f in FIELDS}))
    assert not list((tmp_path / "spools").iterdir())
    assert not list((tmp_path / "states").iterdir())
    assert not list((tmp_path / "relays").iterdir())


def test_a_committee_drawn_by_a_beacon_takes_part(tmp_path: Path) -> None:
    task = make_task(DRAWN)
    enrolled = Enrolled(task, 6, published)
    updates = {party: update_of(number) for number, party in enumerate(enrolled.clients)}
    expected = secagg.simulate(task, updates, beacon=published)
    with serving(tmp_path, enrolled) as service:
        members = [party for party, role in enrolled.roles.items() if str(role) != "client"]
        parties = [
            Party(enrolled, party, service.url, lambda offer, model, party=party: (updates[party],))
            for party in enrolled.roles
        ]
        with playing(service, *parties):
            outcome = service.round({"w": updates["c1"]["w"]})
            service.finish(wait=0)
    assert len(members) == 5
    assert sum(bool(party.uploads) for party in parties if party.party in members) == 4
    assert secagg.Outcome.__eq__(outcome, secagg.Outcome(**{f: getattr(expected, f) for f in FIELDS}))


FIELDS = list(secagg.Outcome.__dataclass_fields__)


class Declining(Party):
    """A client that takes no offer up."""

    def _accept(self, offer: documents.Offer) -> None:
        session = documents.session_key(self.task.digest, offer.name())
        answer = {"accept": False, "reason": "on battery" + 500 * "!"}
        assert self.send("PUT", self.route("accept", session=session), json=answer).status_code == 202


def test_the_log_says_why_a_client_declined(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "secagg.service")
    enrolled = Enrolled(make_task(secagg.Clear(), clients=3, floor=2), 3)
    with serving(tmp_path, enrolled) as service:
        parties = [Party(enrolled, one, service.url, lambda offer, model: update_of(1)) for one in ("c1", "c2")]
        with playing(service, *parties, Declining(enrolled, "c3", service.url)):
            assert service.round({"w": update_of(1)["w"]}).survivors == ("c1", "c2")
            service.finish(wait=0)
    (line,) = [vars(one) for one in caplog.records if "declined" in one.message]
    assert (line["party"], line["reason"]) == ("c3", "on battery" + 190 * "!")


def test_a_round_that_too_many_decline_is_given_up(tmp_path: Path) -> None:
    enrolled = Enrolled(make_task(secagg.Clear(), clients=3, floor=2), 3)
    schedule = Schedule(gather=0.3)
    with serving(tmp_path, enrolled, schedule=schedule) as service:
        accepting = Party(enrolled, "c1", service.url, lambda offer, model: update_of(1))
        others = [Declining(enrolled, party, service.url) for party in ("c2", "c3")]
        with playing(service, accepting, *others):
            for says in ("2 clients declined, so 1 are left; a session needs 2", "too few clients took part"):
                with pytest.raises(secagg.Aborted, match=says):  # the second time it is known
                    service.round({"w": update_of(1)["w"]}, number=1)
            service.finish(wait=0)


@pytest.mark.parametrize(
    ("enrolled", "batches", "says"),
    [
        (3, "fixed", "a roster with 3 clients; a session needs 4"),
        (7, "fixed", "the smallest of which would have 3; a session needs 4"),
        (7, "random", ""),
        (8, "fixed", ""),
    ],
)
def test_a_roster_with_which_no_session_could_begin_is_refused(
    enrolled: int, batches: str, says: str, tmp_path: Path
) -> None:
    everyone = Enrolled(make_task(secagg.Clear(), clients=6, floor=4), enrolled)
    service = Service(tmp_path)
    refused = pytest.raises(ConfigError, match=says) if says else contextlib.nullcontext()
    with refused:
        service.add(everyone.task, roster=everyone.roster, schedule=Schedule(batches=batches))
