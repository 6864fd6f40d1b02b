"""A bounded run of the fuzzer, its negative vectors, and proof that it sees what it looks for."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

import secagg
from mpc import packed
from mpc.graph import draw_ring
from mpc.shamir import _weights
from secagg.identity import PartyRole
from secagg.protocols.oneshot.server import OneShotServer
from secagg.protocols.shares.aggregator import ShareAggregator
from secagg.protocols.shares.collector import Collector
from secagg.protocols.shares.messages import Collect, Held
from secagg.testing import parties_for
from secagg.wire import Envelope
from tests.secagg.fuzz import reach
from tests.secagg.fuzz.__main__ import Campaign
from tests.secagg.fuzz.adapters import adapter_decoders
from tests.secagg.fuzz.committees import committee_decoders
from tests.secagg.fuzz.reach import parsers_in, unreached, watching
from tests.secagg.fuzz.roles import CLIENTS, Case, FuzzedSession, cases
from tests.secagg.fuzz.table import every_decoder
from tests.secagg.fuzz.tally import VECTORS, Tally, Vector
from tests.secagg.fuzz.vectors import cases_by_name, replay, vectors
from tests.secagg.test_check_protocol import AnySession, ChangesOnFault, OffByOne, Reads, broken

SAVED = sorted(VECTORS.glob("*.json"))


def test_nothing_is_found() -> None:
    campaign = Campaign(workers=2, messages=50_000, seconds=120, seed="ci")
    campaign.run(progress=False)
    assert campaign.findings == []
    assert campaign.total >= 50_000
    tried = {target for target, _ in campaign.counts}
    for case in cases():
        for phase in case.parties.protocol.phases:
            assert {f"server {case.name} {phase.round}", f"{phase.role} {case.name} {phase.round}"} <= tried
            assert phase.relay is None or f"{phase.relay} {case.name} {phase.round}" in tried
        assert campaign.counts[f"session {case.name}", "exact"] > 0
    assert {decoder.name for decoder in committee_decoders()} <= tried
    refused = {outcome for target, outcome in campaign.counts if target.startswith("server SecAgg malicious")}
    assert {"malformed", "unauthentic", "invalid", "duplicate", "out of turn", "lie taken"} <= refused


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_negative_vectors_are_refused_as_they_should_be(path: Path) -> None:
    vector = Vector.load(path)
    assert replay(vector) == vector.fault


def test_negative_vectors_are_of_this_wire_format() -> None:
    """If not: is the change meant? Then python -m tests.secagg.fuzz.vectors."""
    assert {path.stem: Vector.load(path) for path in SAVED} == vectors()


def test_every_fault_of_one_message_has_a_vector() -> None:
    of_many = {"wrong share", "wrong dealing", "silent"}
    assert {Vector.load(path).fault for path in SAVED} == {str(kind) for kind in secagg.FaultKind} - of_many


@pytest.mark.parametrize(
    ("role", "fault"),
    [
        (Reads, "escaped IndexError"),
        (ChangesOnFault, "changed by refused bytes"),
        (AnySession, "accepted"),
        (OffByOne, "wrong sum"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_broken_roles_are_found(role: type, fault: str) -> None:
    case, tally = Case(role.__name__, parties_for(broken(role), CLIENTS)), Tally()
    for seed in range(20):
        FuzzedSession(case, Random(seed), tally).run()
    assert fault in {vector.fault for vector in tally.findings}


class Trusting(ShareAggregator):
    """Believes the sender that a report names."""

    def prepare(self) -> None:
        super().prepare()
        self.context.check_signature = lambda *_: None


class Chokes(ShareAggregator):
    def receive(self, data: bytes) -> Any:
        assert data[60] >= 0
        return super().receive(data)


class CountsRefused(ShareAggregator):
    def note(self, fault: Any) -> None:
        self._state.number += 1
        super().note(fault)


class TakesNothingOff(ShareAggregator):
    """Leaves in its share what a helper couldn't open."""

    def _take_off(self, draft: Any, left_out: Any, handed_back: Any) -> Any:
        return draft.share


class HandsOnAll(Collector):
    """Relays reports before they are checked."""

    def receive(self, sender: str, data: bytes) -> Any:
        super().receive(sender, data)
        return dict.fromkeys(self._aggregators, data)


@pytest.mark.parametrize(
    ("role", "fault"),
    [
        (Trusting, "accepted"),
        (Chokes, "escaped IndexError"),
        (CountsRefused, "changed by refused bytes"),
        (TakesNothingOff, "ended by one client"),
        (HandsOnAll, "handed on what it refused"),
    ],
)
def test_broken_aggregators_and_collectors_are_found(role: type, fault: str) -> None:
    members = secagg.AdditiveShares().role_classes | {PartyRole.AGGREGATOR: role}
    changed = {"server": role} if issubclass(role, Collector) else {"role_classes": members}
    protocol = type(role.__name__, (secagg.AdditiveShares,), changed)(kem="X25519")
    case, tally = Case(role.__name__, parties_for(protocol, CLIENTS)), Tally()
    for seed in range(60):
        FuzzedSession(case, Random(seed), tally).run()
        if fault in {vector.fault for vector in tally.findings}:
            return
    pytest.fail(f"{fault} was not found; found {tally.findings}")


class NamesNobody(OneShotServer):
    """Ends a session for which shares were dealt badly without saying by whom."""

    def _blame_for_lacking(self) -> None:
        pass


def test_a_server_of_one_shot_that_names_nobody_is_found() -> None:
    protocol = type("NamesNobody", (secagg.OneShot,), {"server": NamesNobody})(4, 1, kem="X25519")
    case, tally = Case("NamesNobody", parties_for(protocol, CLIENTS)), Tally()
    for seed in range(80):
        FuzzedSession(case, Random(seed), tally).run()
        if "ended by one client, which nobody named" in {vector.fault for vector in tally.findings}:
            return
    pytest.fail(f"nothing was found but {tally.findings}")


def test_committees_that_check_no_proof_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed.Share, "check", lambda self, key, proof: None)
    tally = Tally()
    for decoder in committee_decoders():
        decoder.run(20, Random(1), tally)
    found = {vector.detail for vector in tally.findings}
    for words in ("another share passed its proof", "a member keeps another share than was dealt"):
        assert any(words in detail for detail in found)


def test_the_graphs_of_secagg_plus_are_sparse() -> None:
    sparse = [case for case in cases() if isinstance(case.parties.protocol, secagg.SecAggPlus)]
    assert {case.parties.protocol.threat_model for case in sparse} == {
        "semi-honest",
        "semi-malicious",
        "malicious",
    }
    for case in sparse:
        task, size = case.parties.task, len(case.parties.cohort)
        for present in (size, size - 1):  # with a client silent too
            corrupt = task.protocol.corrupt(size, case.parties.roster)
            assert not task.protocol.shape(task, present, corrupt).complete


def test_reports_that_came_back_are_in_the_pool() -> None:
    shares = [case for case in cases() if isinstance(case.parties.protocol, secagg.AdditiveShares)]
    assert {case.parties.protocol.aggregators for case in shares} == {2, 3}
    for case in shares:
        for kind in (Held, Collect):
            read = [Envelope.parse(data, len(data)) for data in case.pool]
            assert any(one.open(kind)[0].unopened for one in read if one.kind == kind.TYPE)


def test_each_function_that_parses_is_fuzzed(tmp_path: Path) -> None:
    rng, tally, all_cases = Random(1), Tally(), list(cases_by_name().values())
    table = every_decoder(all_cases, tmp_path)
    for cached in (draw_ring, _weights):  # other tests have called them with the same arguments
        cached.cache_clear()
    with watching() as called:
        for decoder in table:
            decoder.run(3, Random(1), tally)
            for sample in decoder.samples[:1]:
                decoder.feed(sample, tally)
        for case in all_cases:
            FuzzedSession(case, rng, tally).run()
    assert unreached(called) == []


@pytest.mark.parametrize(
    "function",
    [
        "def f(data):\n    return json.loads(data)",
        "def f(path):\n    return np.frombuffer(path.open('rb').read())",
        "def f(path):\n    return path.read_bytes()[:4]",
        "def f(data):\n    def g():\n        return int.from_bytes(data)\n    return g()",
        "class A:\n    @classmethod\n    def from_bytes(cls, data):\n        return cls(data)",
        "async def read_offer(body):\n    return body",
    ],
)
def test_functions_that_parse_are_known_by_what_they_call_and_by_their_names(function: str) -> None:
    assert parsers_in(function) in ({"f"}, {"A.from_bytes"}, {"read_offer"})


def test_functions_that_do_not_parse_are_not_listed() -> None:
    assert parsers_in("def f(data):\n    return reading(data), data.decode(), load\n") == set()
    assert parsers_in("class P(Protocol):\n    def load(self, data: bytes) -> None:\n        ...\n") == set()


def test_a_decoder_that_is_missing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of :func:`unreached`: one decoder less, and the function that it alone calls is named."""
    table = adapter_decoders(tmp_path)

    def complaints(without: str) -> list[str]:
        with watching() as called:
            for decoder in table:
                if decoder.name != without:
                    decoder.feed(decoder.samples[0], Tally())
        return unreached(called)

    lacking = "secagg/integrations/_shared/statements.py read is not fuzzed"
    assert lacking not in complaints("")
    assert lacking in complaints("statement")
    monkeypatch.setattr(reach, "NOT_FUZZED", {"no reason": (lacking.removesuffix(" is not fuzzed"), "gone.py f")})
    needless = [line.partition(" needs")[0] for line in complaints("") if "needs no entry" in line]
    assert needless == ["gone.py f", "secagg/integrations/_shared/statements.py read"]


GREEDY = """
import json
from random import Random
from tests.secagg.fuzz.decoders import Decoder
from tests.secagg.fuzz.tally import Tally
from tests.secagg.fuzz.worker import HEADROOM, limit_memory
tally = Tally()
greedy = Decoder("greedy", lambda data: bytes(HEADROOM * data[0] // 10), [bytes([1])], ())
greedy.feed(bytes([30]), tally)
limit_memory()
greedy.feed(bytes([30]), tally)
greedy.feed(bytes([1]), tally)
print(json.dumps(sorted(outcome for _, outcome in tally.counts.elements())))
"""


def test_the_limit_on_memory_holds() -> None:
    done = subprocess.run([sys.executable, "-c", GREEDY], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["FINDING escaped MemoryError", "read", "read"]


def test_a_dead_process_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    campaign = Campaign(workers=1, messages=1, seconds=60, seed="ci")
    fake = tmp_path / "python"
    fake.write_text(
        '#!/bin/sh\nfor last; do :; done\nprintf "\\0\\0\\0\\3abc" | dd of="$last" conv=notrunc\nkill -9 $$\n'
    )
    fake.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(fake))
    campaign.run(progress=False)
    assert campaign.findings == [Vector("process", "died -9", b"abc".hex())]


def test_a_finding_is_saved_under_the_name_of_its_fault(tmp_path: Path) -> None:
    vector = Vector("server SecAgg malicious ShareKeys", "escaped KeyError", "00ff", "c1", "KeyError('x')")
    path = vector.save(tmp_path)
    assert path.name == "escaped-keyerror-server-secagg-malicious-sharekeys-06eb7d6a.json"
    assert Vector.load(path) == vector
