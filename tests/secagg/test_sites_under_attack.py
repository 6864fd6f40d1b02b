"""Sites and a server of the shared adapter, hammered with changed messages from several threads at once."""

import threading
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.errors import ConfigError
from secagg.integrations._shared import site as _site
from secagg.integrations._shared.statements import read, write
from secagg.wire import Envelope
from tests.secagg.fuzz.mutate import Mutator
from tests.secagg.plain_sites import HOST, SITES, PlainSites

THREADS = 3
ODD: tuple[Any, ...] = (None, -1, 1 << 70, "", "a1", b"", np.ones(2), float("nan"), [[]], {"a": b""}, True)


class Hammered(PlainSites):
    """Each message to a site is recorded; threads send changed ones to all sites until the federation closes."""

    def __init__(self, folder: Path, protocol: Any, seed: int) -> None:
        super().__init__(folder, protocol)
        self.seed = seed
        self.sent: list[Mapping[str, Any]] = [write(self.task)]
        self.said: dict[tuple[str, bytes, int], bytes] = {}  # sender, session and type → the one such message
        self.problems: list[str] = []
        self.tried = 0
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._hammer, args=(n,)) for n in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def ask(self, site: str, message: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        """A site's answer, which is checked like those to changed messages."""
        self.sent.append(message)
        answer = self.sites[site].answer(message)
        self.check_answer(answer)
        return answer

    def _hammer(self, number: int) -> None:
        rng = Random(f"{self.seed} {number}")
        while not self._over.is_set():
            message = self.changed(rng, rng.choice(self.sent[-40:]))
            try:
                answer = self.sites[rng.choice((*SITES, HOST))].answer(message)
                self.check_answer(answer)
            except Exception as error:
                self.problems.append(f"{type(error).__name__}: {error}")
            self.tried += 1

    def check_answer(self, answer: Mapping[str, Any]) -> None:
        """A site answers by a refusal of one line, or says one thing for each round of a session."""
        try:
            data = read(answer, self.task).data
        except ConfigError as error:
            if not str(error).isprintable() or not str(error).strip():
                self.problems.append(f"an odd refusal: {error!r}")
            return
        if data:
            # A hosted role is made anew when another session came in between, and then begins again; its ledger
            # lets it open one sum.
            last = self.task.protocol.phases[-1]
            said = Envelope.parse(data, len(data))
            if said.sender in self.parties and said.kind != last.reply.TYPE:
                return
            if self.said.setdefault((said.sender, said.session, said.kind), data) != data:
                self.problems.append(f"{said.sender} said two things of type {said.kind}")

    def changed(self, rng: Random, message: Mapping[str, Any]) -> dict[str, Any]:
        """A message with one field changed, or none."""
        content, name = dict(message), rng.choice([*message])
        mutator = Mutator(rng, [b"other"])
        match rng.randrange(6):
            case 0:
                content[name] = rng.choice(ODD)
            case 1:
                del content[name]
            case 2:
                content[rng.choice(("refusal", "more", 7))] = rng.choice(ODD)  # type: ignore[index]
            case 3 | 4 if content.get("data"):
                content["data"] = mutator.octets(content["data"])
            case _ if isinstance(content[name], bytes | str | int):
                content[name] = mutator.tree(content[name])
        return content

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            if thread.is_alive():
                self.problems.append("a thread waits for ever")
        super().close()


def play(folder: Path, protocol: Any, seed: int, rounds: int) -> Hammered:
    """Rounds under fire: whatever is opened is the mean of its survivors, and each session is opened once."""
    sites = Hammered(folder, protocol, seed)
    try:
        server = sites.rounds()
        for number in range(rounds):
            try:
                outcome = sites.play(server, number)
            except secagg.Aborted as error:
                sites.problems.append(f"round {number}: {error}")
                continue
            if outcome is not None:
                sites.check(outcome)
        sites.problems += [failure for failure in server.failures if "aborted" not in failure]
    finally:
        sites.close()
    return sites


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", logger="secagg")


@pytest.mark.parametrize("protocol", [secagg.SecAgg(), secagg.AdditiveShares()], ids=["SecAgg", "AdditiveShares"])
def test_sites_under_fire_answer_each_message_and_open_nothing_wrong(protocol: Any, tmp_path: Path) -> None:
    sites = play(tmp_path, protocol, seed=1, rounds=3)
    assert sites.problems == []
    assert sites.tried > 100


def test_a_site_that_lets_an_error_out_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the block that turns errors into refusals."""
    monkeypatch.setattr(_site.Site, "refusing", lambda self, answer: answer())
    sites = Hammered(tmp_path, secagg.SecAgg(threat_model="semi-honest"), 1)
    while not sites.problems and sites.tried < 10_000:
        threading.Event().wait(0.01)
    sites.close()
    assert sites.problems
