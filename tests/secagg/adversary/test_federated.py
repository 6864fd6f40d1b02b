"""Attacks on what surrounds a secure sum: masks that differ, groups drawn to suit, liars in groups.

Cohorts have a size of their own here: four clients under one mask, and twenty in groups.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.errors import ConfigError, RemoteProtocolError
from secagg.federated import CoordinateMedian, PublicMask, draw_groups, group_task, simulate_groups
from secagg.federated.compression import Compression
from secagg.roles import MemberContext
from secagg.session import check_session
from secagg.store import MemoryLedger
from secagg.testing import MemoryStore
from tests.secagg.adversary.registry import attack

CLIENTS = ("c1", "c2", "c3", "c4")
COHORT = [f"c{number}" for number in range(20)]
RNG = np.random.default_rng(14)


@attack(
    title="The server tells the others another aggregate, from which their mask picks coordinates that are zero",
    attacker="a server, to read the victim's coordinates in a sum in which the others' are zero",
    defence="a session's name holds the digest of its mask (`Compression.session`, `Compression._checked`)",
    control="without the digest: the server has seven of the victim's eight coordinates",
    source="own",
)
class TestTwoMasks:
    update = RNG.uniform(-1, 1, 40) * (np.arange(40) < 20)  # 20 to 39 are dead: every client's update is zero there

    def masks(self) -> tuple[PublicMask, PublicMask]:
        start = PublicMask(secagg.Layout.of(self.update), 8, explore=0.1)
        return start.after(1.0 * (np.arange(40) < 10)), start.after(1.0 * (np.arange(40) >= 30))

    def task(self) -> secagg.Task:
        return secagg.Task(
            protocol=secagg.SecAgg(threat_model="semi-honest", corruption=0.05),
            layout=self.masks()[0].compressed,
            encoding=secagg.FixedPoint(clip=1.0, bits=20),
            max_clients=4,
            min_survivors=4,
        )

    def test_refused(self) -> None:
        true, false = self.masks()
        server = self.task().server(CLIENTS, session=false.session(b"round 2"))
        victim = self.task().client("c1", session=true.session(b"round 2"))
        with pytest.raises(RemoteProtocolError, match="session"):
            victim.receive(server.start()["c1"])
        with pytest.raises(ConfigError, match="does not name this public-mask"):
            true.compress(self.update, false.session(b"round 2"))

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Compression, "_checked", lambda self, session: check_session(session))
        true, false = self.masks()
        sent = {party: false.compress(self.update, b"round 2") for party in CLIENTS[1:]}
        sent["c1"] = true.compress(self.update, b"round 2")
        outcome = secagg.simulate(self.task(), sent, session=b"round 2")
        dead = false.coordinates(b"round 2") >= 20
        assert np.count_nonzero(dead) >= 7
        assert outcome.sum[dead] == pytest.approx(sent["c1"][dead], abs=1e-5)
        assert np.abs(sent["c1"][dead]).max() > 0.1


@attack(
    title="A server draws groups until every colluder is in the victim's",
    attacker="a server and its c colluders, who subtract their own updates from the group's sum",
    defence="a group's floor counts all c in this one group (`group_task`)",
    control="with c counted in proportion to the group: the server has the victim's update",
    source="own; groups as in Velicheti, Xia and Koyejo 2021 (SHARE)",
)
class TestGroundGroups:
    task = secagg.Task(
        protocol=secagg.SecAgg(corruption=0.1, threat_model="semi-honest"),
        layout=secagg.Layout.of(np.zeros(6)),
        encoding=secagg.FixedPoint(clip=2.0, bits=24),
        max_clients=20,
        min_survivors=16,
    )
    victim, colluders = "c0", {"c1", "c2"}
    updates = {party: RNG.standard_normal(6) / 2 for party in COHORT}

    def ground(self) -> tuple[str, ...]:
        """The group of the victim in the first draw that suits the server."""
        for attempt in range(1_000):
            for group in draw_groups(COHORT, 4, attempt.to_bytes(32, "big")):
                if {self.victim, *self.colluders} <= set(group):
                    return group
        raise AssertionError("no draw put the colluders with the victim")

    def opened(self, task: secagg.Task) -> secagg.Simulation:
        """The others of the group are kept out, down to its floor."""
        group = self.ground()
        others = [party for party in group if party not in {self.victim, *self.colluders}]
        silent = dict.fromkeys(others[: len(group) - task.min_survivors], secagg.Round.MASKED_INPUT)
        return secagg.simulate(task, {party: self.updates[party] for party in group}, dropouts=silent)

    def learned(self, outcome: secagg.Simulation) -> bool:
        rest = outcome.sum - sum(self.updates[party] for party in self.colluders)
        return bool(np.abs(rest - self.updates[self.victim]).max() < 1e-5)

    def test_refused(self) -> None:
        with pytest.raises(ConfigError, match="no group opens for one honest client"):
            group_task(self.task, 4, min_survivors=3)
        outcome = self.opened(group_task(self.task, 4))
        assert len(set(outcome.survivors) - self.colluders) == 2
        assert not self.learned(outcome)

    def test_control_succeeds(self) -> None:
        naive = replace(self.task, max_clients=5, min_survivors=3)  # 10 % of 5 clients are counted as one
        assert self.learned(self.opened(naive))


@attack(
    title="A server draws groups anew within one round, and the same updates go into the sums of each draw",
    attacker="a server that solves for the updates, from sums of ever other groups",
    defence="the ledger's entry for the upload: a client has one for a (task, session) (`MemberContext.claim`)",
    control="without that entry: the server has every update after ten draws",
    source="own; Multi-RoundSecAgg; Gradient Disaggregation",
)
class TestGroupsDrawnAgain:
    cohort = COHORT[:8]
    task = group_task(
        secagg.Task(
            protocol=secagg.SecAgg(corruption=0.1, threat_model="semi-honest"),
            layout=secagg.Layout.of(np.zeros(6)),
            encoding=secagg.FixedPoint(clip=2.0, bits=24, rounding="nearest"),
            max_clients=8,
            min_survivors=8,
        ),
        2,
    )
    updates = {party: RNG.standard_normal(6) / 2 for party in COHORT[:8]}

    def opened(self, group: tuple[str, ...], stores: dict[str, MemoryStore]) -> secagg.Outcome:
        clients = {party: self.task.client(party, session=b"round 3", save=stores[party]) for party in group}
        for party, client in clients.items():
            client.contribute(self.updates[party])
        server = self.task.server(group, session=b"round 3")
        outbox = server.start()
        while server.outcome is None:
            for party, request in outbox.items():
                with suppress(secagg.Aborted):  # of a client that has uploaded before
                    if (reply := clients[party].receive(request)) is not None:
                        server.receive(party, reply)
            outbox = server.close_round()
        return server.outcome

    def error(self) -> float:
        """How far the updates that fit all sums of ten draws best are from the true ones."""
        ledgers, rows, sums = {party: MemoryLedger() for party in self.cohort}, [], []
        for attempt in range(10):
            stores = {party: MemoryStore(ledger) for party, ledger in ledgers.items()}
            for group in draw_groups(self.cohort, 2, attempt.to_bytes(32, "big")):
                with suppress(secagg.Aborted):
                    sums.append(self.opened(group, stores).sum)
                    rows.append([float(party in group) for party in self.cohort])
        solved = np.linalg.lstsq(np.array(rows), np.array(sums), rcond=None)[0]
        return float(np.abs(solved - list(self.updates.values())).max())

    def test_refused(self) -> None:
        assert self.error() > 0.5  # two sums were opened, of the first draw

    def test_control_succeeds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        claim = MemberContext.claim

        def without_upload(client: Any, value: bytes, *entry: Any) -> None:
            if entry[0] != "upload":
                claim(client, value, *entry)

        monkeypatch.setattr(MemberContext, "claim", without_upload)
        assert self.error() < 1e-5


@attack(
    title="Two of twenty clients send twenty times the opposite of their update",
    attacker="clients, to steer the model; the encoding's clip has room for what they send",
    defence="the median over five groups, drawn after the cohort stood (`CoordinateMedian`)",
    control="with a mean over the same groups: the model moves against the honest updates",
    source="Fang et al. 2020; Yin et al. 2018 for the rule",
)
class TestOppositeUpdates:
    task = secagg.Task(
        protocol=secagg.SecAgg(corruption=0.05),
        layout=secagg.Layout.of(np.zeros(6)),
        encoding=secagg.FixedPoint(clip=40.0, bits=20),
        max_clients=20,
        min_survivors=15,
    )
    honest = {party: 1.0 + 0.1 * RNG.standard_normal(6) for party in COHORT}

    def means(self) -> list[object]:
        lies = {party: -20.0 * self.honest[party] for party in ("c3", "c11")}
        groups = draw_groups(COHORT, 5, b"thirty-two bytes that are public")
        results = simulate_groups(group_task(self.task, 5), self.honest | lies, groups)
        return [result.mean for result in results if isinstance(result, secagg.Simulation)]

    def test_refused(self) -> None:
        truth = np.mean(list(self.honest.values()), axis=0)
        assert np.abs(CoordinateMedian(bad=2).combine(self.means()) - truth).max() < 0.2

    def test_control_succeeds(self) -> None:
        assert np.mean(self.means(), axis=0).max() < 0
