"""The task: what is accepted, what it says, and that its bytes are the same everywhere."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import secagg
from mpc import masks
from secagg.encoding import Segment
from secagg.errors import ConfigError
from secagg.identity import enrol
from tests.secagg.fuzz.roles import BEACON

UPDATE = {"w": np.zeros((3, 4), np.float32), "b": [np.zeros(2)]}


def make(**changes: object) -> secagg.Task:
    fields = {
        "protocol": secagg.SecAgg(),
        "layout": secagg.Layout.of(UPDATE),
        "encoding": secagg.FixedPoint(clip=1.0, bits=16),
        "max_clients": 10,
        "min_survivors": 7,
        "max_weight": 100,
        "context": b"run",
    }
    return secagg.Task(**(fields | changes))


PROTOCOLS = (
    *(secagg.Clear(), secagg.SecAgg(), secagg.SecAgg(0.2, "semi-honest")),
    *(secagg.SecAggPlus(), secagg.SecAggPlus(threat_model="malicious", beacon=BEACON)),
    *(secagg.AdditiveShares(), secagg.AdditiveShares(aggregators=3, kem="X25519"), secagg.OneShot()),
    *(secagg.Paillier(bits=2048), secagg.Paillier(bits=2048, key="run"), secagg.BFV(), secagg.BFV(commit=False)),
    *(secagg.BFV(holder="clients"), secagg.CKKS(), secagg.CKKS(holder="clients")),
)


def test_bytes_round_trip_and_digest_is_of_them() -> None:
    for protocol in PROTOCOLS:
        task = make(protocol=protocol)
        again = secagg.Task.from_bytes(task.to_bytes())
        assert again == task
        assert again.digest == task.digest


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": secagg.SecAgg(corruption=0.3)},
        {"protocol": secagg.SecAgg(threat_model="semi-honest")},
        {"protocol": secagg.Clear()},
        {"layout": secagg.Layout.of({"w": np.zeros((4, 3), np.float32), "b": [np.zeros(2)]})},
        {"encoding": secagg.FixedPoint(clip=1.0, bits=17)},
        {"encoding": secagg.FixedPoint(clip=1.5, bits=16)},
        {"encoding": secagg.FixedPoint(clip=1.0, bits=16, rounding="nearest")},
        {"max_clients": 11},
        {"min_survivors": 8},
        {"max_weight": None},
        {"context": b"another run"},
    ],
)
def test_every_field_is_in_the_digest(change: dict[str, object]) -> None:
    assert make(**change).digest != make().digest


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"protocol": "SecAgg"}, "expected an object such as"),
        ({"protocol": secagg.SecAgg}, "got protocol the class SecAgg; expected an object such as"),
        ({"layout": UPDATE}, "Layout.of"),
        ({"encoding": "fixed"}, "FixedPoint"),
        ({"max_clients": 0}, "max_clients=0"),
        ({"max_clients": 1.5}, "max_clients=1.5"),
        ({"max_clients": True}, "max_clients=True"),
        ({"min_survivors": 11}, "from 1 to 10"),
        ({"min_survivors": 0}, "min_survivors=0"),
        ({"min_survivors": 2}, "expected at least 3"),
        ({"max_weight": 0}, "max_weight=0"),
        ({"max_weight": -3}, "max_weight=-3"),
        ({"max_weight": 2.5}, "max_weight=2.5"),
        ({"context": "run"}, "context"),
        ({"context": bytes(2000)}, "at most 1024 bytes"),
        ({"encoding": secagg.FixedPoint(clip={"w": 1.0})}, "b.0"),
    ],
)
def test_what_cannot_work_is_refused_when_the_task_is_made(change: dict[str, object], says: str) -> None:
    with pytest.raises(secagg.ConfigError, match=says.replace(".", r"\.")):
        make(**change)


def test_a_mask_kernel_that_is_not_here_is_refused_when_the_task_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECAGG_KERNEL", "96")
    masks.width.cache_clear()
    with pytest.raises(secagg.ConfigError, match=r"got SECAGG_KERNEL='96'.*expected openssl"):
        make()


@dataclass(frozen=True)
class Segmented(secagg.FixedPoint):
    """Gives its segments as they are listed, whatever they are."""

    clip: float = 1.0
    listed: Any = ()

    def segments(self, layout: Any, max_weight: Any) -> Any:
        return self.listed() if callable(self.listed) else self.listed


class Failing:
    @property
    def length(self) -> int:
        raise KeyError("its length")

    bound = modulus = 1


@pytest.mark.parametrize(
    "segments",
    [
        (), None, 7, [None], [Segment("3", 1)], [Segment(-1, 1)], [Segment(3, -1)], [Segment(3, None)],
        [Segment(3, 1, 0)], [Segment(3, 1, "x")], [Segment(3, 10**5000, 10**5000)], [Segment(1 << 41, 1)],
        [Segment(True, 1)], [(3, 1)], [Failing()], lambda: itertools.repeat(Segment(1, 1)), lambda: 1 / 0,
    ],
)  # fmt: skip
def test_an_encoding_of_bad_segments_is_refused(segments: Any) -> None:
    with pytest.raises(ConfigError):
        make(encoding=Segmented(listed=segments))


def test_segments_come_as_plain_integers() -> None:
    task = make(
        encoding=Segmented(listed=[Segment(np.int64(14), np.uint8(2)), Segment(np.int8(1), 100, np.int64(128))])
    )
    assert task.segments == (Segment(14, 2), Segment(1, 100, 128))
    assert {type(number) for segment in task.segments for number in segment} == {int, type(None)}


@pytest.mark.parametrize("protocol", [secagg.BFV(), secagg.CKKS()])
def test_a_vector_that_a_scheme_cannot_hold_is_refused_when_the_task_is_made(protocol: Any) -> None:
    layout = secagg.Layout.of(np.broadcast_to(np.float32(0), ((1 << 30) + 1,)))
    with pytest.raises(ConfigError, match=r"can't carry this task: got a length of 10737418\d\d; expected"):
        make(protocol=protocol, layout=layout)


def test_sums_beyond_62_bits_are_refused() -> None:
    huge = secagg.Layout.of(np.broadcast_to(np.float32(0), (1 << 39,)))
    wide = {"layout": huge, "protocol": secagg.Clear(), "min_survivors": 1}
    with pytest.raises(secagg.ConfigError, match=r"up to 63 bits .* expected 2 to 62"):
        make(**wide, max_clients=1 << 23)
    with pytest.raises(secagg.ConfigError, match="largest message to the server"):  # of 62 bits a coordinate
        make(**wide, max_clients=1 << 22)


@pytest.mark.parametrize("bad", [-0.1, 1.0, "third", True, float("nan")])
def test_corruption_is_a_fraction(bad: object) -> None:
    with pytest.raises(secagg.ConfigError, match="corruption"):
        secagg.SecAgg(corruption=bad)


def test_threat_model_is_one_of_two_words() -> None:
    with pytest.raises(secagg.ConfigError, match="'malicious' or 'semi-honest'"):
        secagg.SecAgg(threat_model="honest")


def test_threshold_above_min_survivors_names_the_least_value() -> None:
    ids = [f"c{i}" for i in range(10)]
    _, roster = enrol(ids)
    with pytest.raises(secagg.ConfigError, match="expected at least 7"):
        make(min_survivors=6).server(ids, roster=roster, session=b"s")
    make(min_survivors=7).server(ids, roster=roster, session=b"s")


def test_malicious_counts_the_corrupt_among_all_enrolled() -> None:
    _, roster = enrol([f"c{i:02}" for i in range(30)])  # c = 9
    task = make(max_clients=20, min_survivors=10)
    with pytest.raises(secagg.ConfigError, match="expected at least 11"):
        task.server([f"c{i:02}" for i in range(10)], roster=roster, session=b"s")
    replace(task, min_survivors=15).server([f"c{i:02}" for i in range(19)], roster=roster, session=b"s")


def test_malicious_without_a_roster_is_refused() -> None:
    for role in (lambda: make().server([f"c{i}" for i in range(10)], session=b"s"), lambda: make().client("c1")):
        with pytest.raises(secagg.ConfigError, match="semi-honest"):
            role()


def test_a_client_refuses_a_roster_with_which_no_cohort_would_do() -> None:
    for enrolled, says in ((40, "expected at least 15"), (24, "min_survivors=7 with a cohort of 9, 7 of them")):
        keys, roster = enrol([f"c{i}" for i in range(enrolled)])
        with pytest.raises(secagg.ConfigError, match=says):
            make().client("c1", identity=keys["c1"], roster=roster)


def test_wrong_kinds_of_arguments_are_refused_by_name() -> None:
    keys, roster = enrol([f"c{i}" for i in range(10)])
    for arguments, says in (
        ({"identity": "c1.pem", "roster": roster}, "got a str as identity"),
        ({"identity": keys["c1"], "roster": "roster.json"}, "got a str as roster"),
        ({"identity": keys["c1"], "roster": roster, "save": "c1.state"}, "got a str as save"),
        ({"identity": keys["c1"], "roster": roster, "rng": lambda count: b""}, "rng did not return 32 bytes"),
    ):
        with pytest.raises(secagg.ConfigError, match=says):
            make().client("c1", **arguments)


def test_faults_of_one_party_never_push_out_those_of_another() -> None:
    ids = [f"c{i}" for i in range(10)]
    server = make(protocol=secagg.Clear()).server(ids, session=b"s")
    server.start()
    for number in range(1000):
        server.receive(f"stranger{number}", b"")
        server.receive("c0", b"nonsense")
    before = len(server.faults)
    assert before <= 2 * 256 + 10
    with pytest.raises(secagg.Aborted):
        server.close_round()
    silent = {fault.sender for fault in server.faults if fault.kind is secagg.FaultKind.SILENT}
    assert silent == set(ids)


@pytest.mark.parametrize(
    ("cohort", "says"),
    [
        ([f"c{i}" for i in range(11)], "max_clients"),
        ([f"c{i}" for i in range(6)], "min_survivors"),
        (["c0", *[f"c{i}" for i in range(9)]], "twice"),
        (["stranger", *[f"c{i}" for i in range(9)]], "stranger"),
        (["", *[f"c{i}" for i in range(9)]], "party id"),
        (["a b", *[f"c{i}" for i in range(9)]], "party id"),
    ],
)
def test_bad_cohorts_are_refused(cohort: list[str], says: str) -> None:
    _, roster = enrol([f"c{i}" for i in range(11)])
    with pytest.raises(secagg.ConfigError, match=says):
        make().server(cohort, roster=roster, session=b"s")


@pytest.mark.parametrize(("session", "says"), [("round 3", "expected bytes"), (bytes(1025), "hash it")])
def test_a_session_is_named_by_few_bytes(session: object, says: str) -> None:
    task, ids = make(protocol=secagg.Clear()), [f"c{i}" for i in range(10)]
    with pytest.raises(secagg.ConfigError, match=says):
        task.server(ids, session=session)
    with pytest.raises(secagg.ConfigError, match=says):
        task.client("c1", session=session)


def test_identity_and_roster_belong_together() -> None:
    ids = [f"c{i}" for i in range(10)]
    keys, roster = enrol(ids)
    strangers, _ = enrol(ids)
    task = make()
    with pytest.raises(secagg.ConfigError, match="pass both or none"):
        task.client("c1", identity=keys["c1"])
    with pytest.raises(secagg.ConfigError, match="not the one the roster lists"):
        task.client("c1", identity=strangers["c1"], roster=roster)
    with pytest.raises(secagg.ConfigError, match="enrol it first"):
        task.client("c99", identity=keys["c1"], roster=roster)
    with pytest.raises(secagg.ConfigError, match="has no decryptor"):
        task.decryptor("c1", identity=keys["c1"], roster=roster)


def test_describe_says_what_matters() -> None:
    text = make().describe()
    for word in (
        "SecAgg",
        "7 or more",
        "14 coordinates",
        "grid step 3.05e-05",
        "malicious server",
        "33% of",
        "5 of 7 to 7 of 10 shares",
        "the server and 3 of 7 clients in the smallest session",
        "Unmasking",
    ):
        assert word in text
    assert "not post-quantum" in text


def test_foreign_bytes_are_no_task() -> None:
    data = make().to_bytes()
    for bad in (b"", data[:-1], data + b"\0", data.replace(b"SecAgg", b"SecBgg"), b"N\0\0\0\0"):
        with pytest.raises(secagg.ConfigError):
            secagg.Task.from_bytes(bad)
    with pytest.raises(secagg.ConfigError, match="wire version 1"):
        secagg.Task.from_bytes(data.replace(b"i\0\0\0\x01\x02", b"i\0\0\0\x01\x01", 1))


# --- encodings that are told of the task


@dataclass(frozen=True)
class Counting(secagg.FixedPoint):
    """An encoding that wants to know how many are honest."""

    task: tuple[int, int, int] = (0, 0, 0)

    def for_task(self, *, max_clients: int, honest: int, corrupt: int, shows_terms: bool) -> "Counting":
        if honest < 5:
            raise ValueError(f"got {honest} honest; expected 5")
        return replace(self, task=(max_clients, honest, corrupt))

    def check(self, max_clients: int, honest: int, corrupt: int) -> None:
        if honest < self.task[1]:
            raise ValueError(f"got {honest} honest; expected {self.task[1]}")


def test_an_encoding_is_told_what_its_noise_has_to_hold_for():
    task = make(protocol=secagg.SecAgg(corruption=0.2), encoding=Counting(1.0), max_clients=20, min_survivors=15)
    assert task.encoder.task == (20, 11, 4)
    assert task.encoding.task == (0, 0, 0)
    assert task.honest == 11
    with pytest.raises(ConfigError, match="got 1 honest"):
        make(encoding=Counting(1.0), protocol=secagg.Clear(), max_clients=20, min_survivors=3)


def test_more_enrolled_than_noise_was_calibrated_to_is_refused():
    protocol = secagg.SecAgg(corruption=0.2)
    task = make(protocol=protocol, encoding=Counting(1.0), max_clients=20, min_survivors=15)
    ids = [f"c{i:02}" for i in range(30)]
    _, enough = secagg.identity.enrol(ids[:24])
    _, many = secagg.identity.enrol(ids)
    task.server(ids[:20], roster=enough, session=b"s")
    with pytest.raises(ConfigError, match="got 30 clients enrolled, 6 of them possibly corrupt"):
        task.server(ids[:20], roster=many, session=b"s")
    plain = replace(task, encoding=secagg.FixedPoint(1.0))
    plain.server(ids[:20], roster=many, session=b"s")


@dataclass(frozen=True)
class Unchecking(secagg.FixedPoint):
    """An encoding that wants to know, and does nothing with what it was told."""

    def for_task(self, *, max_clients: int, honest: int, corrupt: int, shows_terms: bool) -> "Unchecking":
        return self


def test_an_encoding_that_can_not_refuse_a_roster_is_refused():
    with pytest.raises(ConfigError, match="for_task and no check of its own"):
        make(encoding=Unchecking(1.0))
