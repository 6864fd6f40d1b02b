"""Several sessions of one task, one after the other, and what parties get in between."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import secagg
from secagg.api import documents
from secagg.service import Schedule
from tests.service.plain import Enrolled, Party, hurry, make_task, playing, serving, update_of


class Skips(Party):
    """Does not answer the last round of the first session, but goes on asking."""

    def _hand(self, session: str, frame: documents.Framed) -> None:
        last = len(self.task.protocol.phases) - 1
        if frame.round == last and len(self.roles) == 1:
            return
        super()._hand(session, frame)


class Slow(Party):
    """Takes its time in the first round of the second session."""

    def _hand(self, session: str, frame: documents.Framed) -> None:
        if frame.round == 0 and len(self.roles) == 2:
            time.sleep(3)
        super()._hand(session, frame)


def test_a_client_that_was_dropped_takes_part_in_the_next_session_without_a_loop(tmp_path: Path) -> None:
    enrolled = Enrolled(make_task(secagg.SecAgg(corruption=0.17)), 6)
    updates = {party: update_of(number) for number, party in enumerate(enrolled.clients)}

    def update(party: str) -> Any:
        return lambda offer, model: (updates[party],)

    with serving(tmp_path, enrolled, schedule=Schedule(deadline=60, training=60, gather=60)) as service:
        kinds = {"c3": Skips, "c4": Slow}
        parties = [
            kinds.get(party, Party)(enrolled, party, service.url, update(party)) for party in enrolled.clients
        ]
        with playing(service, *parties, rounds=100):
            hurry(service, "c3", "Unmasking")
            first = service.round({"w": updates["c1"]["w"]})
            second = service.round({"w": updates["c2"]["w"]})
            service.finish()
    assert (first.dropped, second.dropped) == ({"c3": "Unmasking"}, {})
    assert second.survivors == tuple(enrolled.clients)
    (skips,) = (party for party in parties if isinstance(party, Skips))
    assert skips.left == 1
    assert skips.polls < 25


def test_a_service_that_is_started_again_after_its_last_round_waits_until_the_parties_know(tmp_path: Path) -> None:
    enrolled = Enrolled(make_task(secagg.Clear(), clients=3, floor=2), 3)
    model = {"w": update_of(1)["w"]}
    with serving(tmp_path, enrolled) as service:
        parties = [Party(enrolled, one, service.url, lambda offer, model: update_of(2)) for one in enrolled.clients]
        with playing(service, *parties):
            first = service.round(model)
    with serving(tmp_path, enrolled) as service:  # nobody has heard yet that the run is over
        assert service.round(model).survivors == first.survivors
        run = service._run(None)
        assert not run.everyone_knows
        with playing(service, *(Party(enrolled, one, service.url) for one in enrolled.clients)):
            service.finish()
            assert run.everyone_knows
