"""A client's budget across crashes, restarts and retries: every input that leaves is paid for, each once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dp
import secagg
from secagg.errors import ConfigError, LocalProtocolError
from secagg.store import MemoryLedger
from secagg.table import input_round, rounds
from secagg.testing import MemoryStore, Session, parties_for
from tests.secagg.test_noise import CLIENTS, SIZE, make_task, make_updates
from tests.secagg.test_restore import Crash, storing

IDS = [f"c{i:02}" for i in range(CLIENTS)]
VICTIM = IDS[0]
PROTOCOLS: list[Any] = [
    *(secagg.Clear(), secagg.SecAgg(corruption=0.1), secagg.AdditiveShares()),
    *(secagg.OneShot(), secagg.BFV()),
]


def budget_in(path: Path, task: Any = None, kind: Any = dp.PrivacyLedger) -> dp.PrivacyLedger:
    """For a task, by default one under Clear, where each client's own noise has to do."""
    trust = "local" if task is None or task.shows_terms else "distributed"
    return kind.open(path, 20.0, 1e-5, unit="client", trust=trust)  # type: ignore[no-any-return]


class Forgetful(dp.PrivacyLedger):
    """The control: it doesn't ask what it was charged for."""

    def charge(self, release: Any, count: int = 1, *, once: bytes | None = None) -> float:
        return super().charge(release, count)


def play(
    protocol: Any, path: Path, *, dies: bool, kind: Any = dp.PrivacyLedger
) -> tuple[Session, dp.PrivacyLedger]:
    """A session in which the victim's process may die when its input was charged, before it was saved or sent.

    It comes back from its last state, with its budget as it stands on the disk, and is asked again. Returns the
    budget too.
    """
    parties = parties_for(protocol, CLIENTS)
    victim = parties.cohort[0]
    task = make_task(protocol=protocol, layout=secagg.Layout.of({"w": np.zeros(SIZE)}))
    session = Session(parties, task=task, contribute=False)
    store = session.stores[victim] = storing(MemoryLedger())
    session.members[victim] = session.make(victim, budget=budget_in(path, task, kind))
    for party, update in zip(parties.cohort, make_updates(), strict=True):
        session.members[party].contribute({"w": update})
    session.until(input_round(protocol))
    if dies:
        store.crash_at = store.number + 1
        with pytest.raises(Crash):
            session.ask(victim)
        assert budget_in(path, task, kind).spent > 0, "what may have left is charged"
        budget = budget_in(path, task, kind)
        session.restore(victim, store.state, save=storing(store.ledger), budget=budget)
    assert victim in session.run().survivors
    return session, budget_in(path, task, kind)


@pytest.mark.parametrize("dies", [False, True], ids=["lives", "dies"])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_an_input_is_charged_once_whatever_dies(protocol: Any, dies: bool, tmp_path: Path) -> None:
    session, budget = play(protocol, tmp_path / "budget", dies=dies)
    assert budget.report().releases == 1
    assert budget.spent == pytest.approx(session.task.encoder.epsilon(SIZE))


def test_control_a_budget_that_forgets_what_for_charges_twice(tmp_path: Path) -> None:
    _, budget = play(secagg.SecAgg(corruption=0.1), tmp_path / "budget", dies=True, kind=Forgetful)
    assert budget.report().releases == 2


class Clear:
    """A client of Clear, which is asked for its input at once, under one session or another."""

    def __init__(self, budget: Any, *, save: Any = None) -> None:
        self.task = make_task(protocol=secagg.Clear())
        self.client = self.task.client(VICTIM, session=b"1", budget=budget, save=save)
        self.unused = self.client.to_bytes()
        self.client.contribute(make_updates()[0])

    def request(self) -> bytes:
        """A proposal of the session, with a nonce of its own."""
        return self.task.server(IDS, session=b"1").start()[VICTIM]


def test_control_a_ledger_that_its_caller_saves_loses_what_left(tmp_path: Path) -> None:
    """The answer has left, and the process dies before its caller comes to save the ledger's bytes."""
    lost, kept = dp.PrivacyLedger(20.0, 1e-5, unit="client", trust="local"), budget_in(tmp_path / "budget")
    before = lost.to_bytes()
    for budget in (lost, kept):
        setting = Clear(budget)
        assert setting.client.receive(setting.request())
    assert dp.PrivacyLedger.from_bytes(before).spent == 0
    assert budget_in(tmp_path / "budget").report().releases == 1


def test_another_upload_is_charged_again(tmp_path: Path) -> None:
    """The disk was full, so nothing left: asked the same again it pays no more; asked something else, it does."""

    class Full:
        ledger = None

        def __call__(self, number: int, state: bytes) -> None:
            if number > 1:
                raise OSError("no room")

    setting = Clear(budget_in(tmp_path / "budget"), save=Full())
    first, other = setting.request(), setting.request()
    for request, releases in ((first, 1), (first, 1), (other, 2), (first, 2)):
        with pytest.raises(OSError, match="no room"):
            setting.client.receive(request)
        assert budget_in(tmp_path / "budget").report().releases == releases


def test_a_state_with_a_budget_is_not_restored_without(tmp_path: Path) -> None:
    budget = budget_in(tmp_path / "budget")
    setting = Clear(budget)
    for state in (setting.unused, setting.client.to_bytes()):
        shelf = MemoryStore()
        with pytest.raises(ConfigError, match=r"and no budget; pass budget= .*PrivacyLedger\.open"):
            setting.task.restore_client(state, save=shelf)
        again: Any = setting.task.restore_client(state, save=shelf, budget=budget)
        again.contribute(make_updates()[0])
        assert again.receive(setting.request())
    assert budget.report().releases == 2


def test_a_state_without_a_budget_may_be_given_one(tmp_path: Path) -> None:
    """From then on it needs it."""
    setting, shelf = Clear(None), MemoryStore()
    setting.task.restore_client(setting.client.to_bytes(), save=shelf)
    budget = budget_in(tmp_path / "budget")
    restored: Any = setting.task.restore_client(setting.client.to_bytes(), save=shelf, budget=budget)
    with pytest.raises(ConfigError, match="and no budget"):
        setting.task.restore_client(restored.to_bytes(), save=shelf)


def budgets(epsilon: float = 20.0) -> dict[str, dp.PrivacyLedger]:
    return {party: dp.PrivacyLedger(epsilon, 1e-5, unit="client", trust="distributed") for party in IDS}


def test_in_a_simulation_everyone_pays_who_sends() -> None:
    task, held, updates = make_task(), budgets(), dict(zip(IDS, make_updates(), strict=True))
    for name in (b"1", b"2"):
        early, late = input_round(task.protocol), rounds(task.protocol)[-1]
        secagg.simulate(task, updates, budgets=held, session=name, dropouts={IDS[3]: early} if name == b"1" else {})
    releases = {party: held[party].report().releases for party in IDS}
    assert releases == dict.fromkeys(IDS, 2) | {IDS[3]: 1}
    assert held[VICTIM].spent == pytest.approx(task.encoder.epsilon(SIZE, rounds=2))  # type: ignore[attr-defined]
    secagg.simulate(task, updates, budgets=held, session=b"3", dropouts={IDS[3]: late})
    assert held[IDS[3]].report().releases == 2, "who falls silent later has paid"
    ledgers = [dp.PrivacyLedger(20.0, 1e-5, unit="client", trust="distributed") for _ in IDS]
    secagg.simulate(task, make_updates(), budgets=ledgers)
    assert [budget.report().releases for budget in ledgers] == [1] * CLIENTS


def test_a_simulation_stops_at_the_budget_and_says_whose() -> None:
    held = budgets() | {IDS[5]: dp.PrivacyLedger(1.0, 1e-5, unit="client", trust="distributed")}
    with pytest.raises(LocalProtocolError, match=f"{IDS[5]}: this input does not leave: .* the budget is 1,"):
        secagg.simulate(make_task(), dict(zip(IDS, make_updates(), strict=True)), budgets=held)
    assert held[IDS[5]].spent == 0


def test_budgets_are_for_every_client_or_for_none() -> None:
    held = budgets()
    del held[IDS[2]]
    with pytest.raises(ConfigError, match=r"got budgets that don't fit .*: c02"):
        secagg.simulate(make_task(), dict(zip(IDS, make_updates(), strict=True)), budgets=held)
    task = make_task(encoding=secagg.FixedPoint(clip=1.0))
    with pytest.raises(ConfigError, match="without noise"):
        secagg.simulate(task, dict(zip(IDS, make_updates(), strict=True)), budgets=budgets())
