"""A session whose parties, transport, timers and training all run in threads of their own, as in a real server.

``python -m tests.secagg.stress ROUNDS [SIZE] [NAME...]`` plays so many rounds of each protocol and says how many
went wrong. ``--without-locks`` takes the roles' locks away first, to see that this is noticed.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import secagg
from secagg.errors import Aborted, LocalProtocolError, SecAggError
from secagg.identity import PartyRole
from secagg.roles import turn as _turn
from secagg.table import input_round
from secagg.testing import Parties, parties_for

CLIENTS = 12
WAIT = 60.0  # seconds after which a thread that has heard nothing gives up

PROTOCOLS: dict[str, Callable[[], Any]] = {
    "Clear": secagg.Clear,
    "SecAgg semi-honest": lambda: secagg.SecAgg(threat_model="semi-honest"),
    "SecAgg malicious": lambda: secagg.SecAgg(threat_model="malicious"),
    "SecAggPlus": lambda: secagg.SecAggPlus(threat_model="semi-honest"),
    "AdditiveShares": secagg.AdditiveShares,
    "OneShot": secagg.OneShot,
    "BFV": secagg.BFV,
    "CKKS": secagg.CKKS,
    "Paillier": secagg.Paillier,
}
SIZES = {"BFV": 30_000, "CKKS": 30_000, "Paillier": 300}  # at most: ciphertexts of millions would take minutes


class NoTurn(_turn.Turn):
    """The control: every call goes ahead at once."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@dataclass
class ThreadedSession:
    """One session. Each message reaches the server twice at the same time, and two timers close each round."""

    parties: Parties
    size: int
    name: bytes
    closes_early: bool = False  # a timer closes the input's round while inputs arrive
    problems: list[str] = field(default_factory=list)

    def run(self) -> list[str]:
        """What went wrong; nothing, if all is right."""
        task = self.parties.make_task(
            layout=secagg.Layout.of({"w": np.zeros(self.size, np.float32)}),
            encoding=secagg.FixedPoint(clip=1.0, bits=12, rounding="nearest"),
            max_weight=None,
        )
        roster = self.parties.roster
        self.server = task.server(self.parties.cohort, roster=roster, session=self.name)
        make = {PartyRole.CLIENT: task.client, PartyRole.DECRYPTOR: task.decryptor}
        make[PartyRole.AGGREGATOR] = task.aggregator
        self.members: dict[str, Any] = {
            party: make[role](
                party,
                identity=self.parties.identities.get(party),
                roster=roster,
                session=self.name,
                key=self.parties.long_lived.get(party),
            )
            for party, role in self.parties.roles.items()
        }
        self.inboxes: dict[str, queue.Queue[bytes | None]] = {party: queue.Queue() for party in self.members}
        self.news = threading.Event()
        with ThreadPoolExecutor(len(self.members) + 2 * len(self.parties.cohort) + 4) as threads:
            self.handlers = ThreadPoolExecutor(CLIENTS)
            self.jobs = [
                threads.submit(self.train, place, party) for place, party in enumerate(self.parties.cohort)
            ]
            self.jobs += [threads.submit(self.answer, party) for party in self.members]
            self.jobs += [threads.submit(self.drive, input_round(task.protocol))]
            for job in self.jobs:
                if (error := job.exception(WAIT)) is not None:
                    self.problems.append(f"{type(error).__name__}: {error}")
            self.handlers.shutdown()
        self.judge()
        return self.problems

    def value(self, place: int) -> float:
        """A whole number of steps of the grid, so that sums are exact."""
        return (place + 1) * 40 / 2047

    def train(self, place: int, party: str) -> None:
        update = {"w": np.full(self.size, self.value(place), np.float32)}
        member = self.members[party]
        try:
            member.contribute(update)
        except LocalProtocolError:
            if not member.finished:  # else it was dropped
                raise
        with contextlib.suppress(LocalProtocolError):  # once its input has left
            member.contribute(update)  # changes nothing

    def answer(self, party: str) -> None:
        """A party's loop, over its inbox."""
        member = self.members[party]
        while not member.finished:
            request = self.inboxes[party].get(timeout=WAIT)
            if request is None:
                return
            try:
                reply = self.take(member, request)
            except Aborted:
                return
            if reply is not None:
                for _ in range(2):
                    self.handlers.submit(self.hand_in, party, reply)

    def take(self, member: Any, request: bytes) -> bytes | None:
        """The answer to a request that came twice at once, the update being on its way perhaps."""
        answers: list[bytes | None] = []

        def receive() -> None:
            end = time.monotonic() + WAIT
            while True:
                try:
                    answers.append(member.receive(request))
                    return
                except LocalProtocolError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.002)

        twin = threading.Thread(target=lambda: self.attempt(receive))
        twin.start()
        try:
            receive()
        finally:
            twin.join()
        if len(set(answers)) > 1:
            self.problems.append(f"{member.id} gave two answers to one request")
        return answers[0]

    def attempt(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Aborted:
            pass
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")

    def hand_in(self, party: str, reply: bytes) -> None:
        def receive() -> None:
            self.post(self.server.receive(party, reply))

        self.attempt(receive)
        self.news.set()

    def post(self, outbox: Any) -> None:
        for party, message in outbox.items():
            self.inboxes[party].put(message)

    def drive(self, wanted: str) -> None:
        """The server's loop: two timers close each round by its name, when all have answered or too early."""
        try:
            self.post(self.server.start())
            while self.server.outcome is None:
                name = self.server.round
                early = self.closes_early and name == wanted
                end = time.monotonic() + (random.uniform(0, 0.2) if early else WAIT)
                while self.server.pending and time.monotonic() < end:
                    self.news.wait(0.005)
                    self.news.clear()
                close = partial(self.attempt, partial(self.close, name))
                timers = [threading.Thread(target=close) for _ in range(2)]
                for timer in timers:
                    timer.start()
                for timer in timers:
                    timer.join()
                if self.server.round is None and self.server.outcome is None:
                    return  # aborted
        finally:
            for inbox in self.inboxes.values():
                inbox.put(None)

    def close(self, name: str) -> None:
        self.post(self.server.close_round(name))

    def judge(self) -> None:
        """Exactly the inputs of the survivors are in the sum, and nobody who was dropped before."""
        outcome = self.server.outcome
        if outcome is None:
            if not self.closes_early:
                self.problems.append("there is no outcome")
            return
        kinds = {fault.kind.value for fault in outcome.faults}
        late = {"silent", "out of turn"} if self.closes_early else set()
        if kinds - late:
            self.problems.append(f"faults where nobody did anything wrong: {sorted(kinds - late)}")
        cohort = self.parties.cohort
        if not self.closes_early and outcome.survivors != cohort:
            self.problems.append(f"{outcome.survivors} survived of {cohort}")
        expected = sum(self.value(cohort.index(party)) for party in outcome.survivors)
        wrong = int((np.abs(outcome.sum["w"] - expected) > 1e-3).sum())
        if wrong:
            self.problems.append(f"{wrong} of {self.size} coordinates are wrong")


def parties_of(name: str) -> Parties:
    """The parties of a protocol; keys are made once."""
    return parties_for(PROTOCOLS[name](), CLIENTS)


def problems(name: str, rounds: int, size: int) -> Iterable[list[str]]:
    """What went wrong in each of so many rounds, every third of them closed early."""
    parties = parties_of(name)
    for number in range(rounds):
        label = number.to_bytes(4, "big")
        yield ThreadedSession(parties, min(size, SIZES.get(name, size)), label, closes_early=number % 3 == 2).run()


def main() -> int:
    """Play, and print a line for each protocol; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rounds", type=int, nargs="?", default=200)
    parser.add_argument("size", type=int, nargs="?", default=3_000_000)
    parser.add_argument("name", nargs="*", default=list(PROTOCOLS))
    parser.add_argument("--without-locks", action="store_true")
    chosen = parser.parse_args()
    if chosen.without_locks:
        from secagg.roles import member, server as _server

        member.Turn = _server.Turn = NoTurn  # type: ignore[misc]
        globals()["WAIT"] = 10.0  # some threads then wait for what never comes
    failed = False
    for name in chosen.name:
        began, wrong, shown = time.monotonic(), 0, ""
        for wrong_now in problems(name, chosen.rounds, chosen.size):
            wrong += bool(wrong_now)
            shown = shown or "; ".join(wrong_now[:2])
        seconds = time.monotonic() - began
        print(f"{name:20} {wrong} of {chosen.rounds} rounds wrong in {seconds:.0f} s  {shown[:200]}", flush=True)
        failed |= bool(wrong)
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SecAggError as error:
        sys.exit(str(error))
