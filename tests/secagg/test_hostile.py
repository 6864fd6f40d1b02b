"""Whatever is passed, nothing leaves the library but its own errors, and no message runs an object's own text."""

import dataclasses
import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import secagg
from secagg.beacon import SignedBeacon
from secagg.errors import SecAggError, shown
from secagg.identity import Party, PartyRole, Roster, load_he_key, load_identity, load_sealing_key
from secagg.roles.environment import Environment

UPDATE = {"w": np.zeros(3, np.float32), "b": [np.zeros(()), 1.0]}
TASK = secagg.Task(
    protocol=secagg.Clear(),
    layout=secagg.Layout.of(UPDATE),
    encoding=secagg.FixedPoint(clip=1.0),
    max_clients=3,
    min_survivors=2,
    max_weight=5,
)

ERRORS = [ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError, RecursionError, MemoryError]
ERRORS += [StopIteration, ZeroDivisionError, IndexError, UnicodeError, AssertionError, BufferError]
METHODS = ["__array__", "__len__", "__iter__", "__repr__", "__str__", "__eq__", "__hash__", "__bool__", "__index__"]
METHODS += ["__float__", "__int__", "__getitem__", "__contains__", "__format__", "__call__", "__lt__", "__bytes__"]
METHODS += ["items", "keys", "values"]
PROPERTIES = ["shape", "dtype", "ndim", "__array_interface__", "__class__", "index", "columns", "segments", "name"]
BASES = [object, str, bytes, int, float, list, tuple, dict, np.ndarray, ValueError]


class OwnTextFails(Exception):
    def __str__(self) -> str:
        raise ValueError("its text")

    __repr__ = __str__


def hostile(base: type, methods: set[str], properties: set[str], error: type[Exception]) -> Any:
    """An object of a class like ``base`` in which these fail."""

    def fail(*arguments: Any, **named: Any) -> Any:
        raise error("hostile")

    members: dict[str, Any] = dict.fromkeys(methods, fail) | dict.fromkeys(properties, property(fail))
    kind = type("Hostile", (base,), members)
    thing: Any = base.__new__(kind, (2,)) if base is np.ndarray else base.__new__(kind)
    if base is list:
        list.append(thing, np.ones(1))
    if base is dict:
        dict.__setitem__(thing, "w", np.ones(1))
    return thing


class Endless(Mapping[Any, Any]):
    """Has ever more keys."""

    def __getitem__(self, key: Any) -> Any:
        return np.ones(1)

    def __iter__(self) -> Iterator[Any]:
        number = 0
        while True:
            number += 1
            yield number

    def __len__(self) -> int:
        return 1


class Answers:
    """An array whose ``__array__`` gives anything."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.answer


class Lies(Answers):
    shape = (3,)
    dtype = np.dtype(np.float32)


def nested(depth: int) -> Any:
    update: Any = np.ones(1)
    for _ in range(depth):
        update = [update]
    return update


def cyclic() -> Any:
    update: dict[str, Any] = {"w": np.ones(1)}
    update["self"] = update
    return update


class Referred:
    pass


class FailingMeta(type):
    """A class that can't be asked what it is below."""

    @property
    def __mro__(cls) -> Any:
        raise KeyError("its bases")


class OfFailingMeta(metaclass=FailingMeta):
    pass


class NoClass:
    """Fails where ``isinstance`` asks it."""

    @property
    def __class__(self) -> Any:
        raise KeyError("its class")


class OddBytes(bytes):
    """Answers for itself, and never with bytes."""

    def __len__(self) -> int:
        raise KeyError("its length")

    def __bytes__(self) -> bytes:
        raise KeyError("its bytes")


def released() -> memoryview:
    view = memoryview(b"gone")
    view.release()
    return view


PRETENDERS: list[Any] = [
    weakref.proxy(Referred()), NoClass(), OfFailingMeta(), OddBytes(b"123"), released(), memoryview(b"1234")[::2],
    *(mock.MagicMock(spec=kind) for kind in (str, bytes, int, dict, list, np.ndarray, secagg.Task, secagg.Clear)),
]  # fmt: skip


ODD: list[Any] = [
    None, "c0", b"c0", "", 7, -1, True, 2.5, float("nan"), float("inf"), 10**5000, 1j, object(), int, Ellipsis,
    np.bool_(True), np.int64(2), np.float32(0.5), np.str_("c1"), np.bytes_(b"s"), np.datetime64("2020-01-01"),
    np.array([object()]), np.array(["a"]), np.array([1j]), np.array(["2020"], "M8[s]"), np.full(3, np.nan),
    np.zeros(3, [("a", "f4")]), np.broadcast_to(np.float32(0), (1 << 39,)), np.broadcast_to(0.0, (1 << 41,)),
    np.ma.masked_array([1.0], [True]), np.ones((1,) * 60), np.zeros(0), Endless(), cyclic(), nested(2000),
    nested(60),
    Answers(None), Answers([1.0]), Answers(np.ones(3)), Lies(np.ones(2)), Lies("text"), OwnTextFails(), TASK,
    {1: 1.0, "1": 1.0}, {"\ud800": 1.0}, {10**5000: 1.0}, {"a": {"b": 1.0}, "a.b": 1.0}, {"c1": UPDATE},
    [UPDATE] * 2,
    {"c1": 3, "c2": 10**400}, [1, 2], ["c1", "c1"], ["c1", None], range(3), memoryview(b"123"), bytearray(b"1"),
    *PRETENDERS,
]  # fmt: skip
OBJECTS = st.one_of(
    st.sampled_from(range(len(ODD))).map(lambda at: partial(ODD.__getitem__, at)),
    st.builds(
        partial,
        st.just(hostile),
        st.sampled_from(BASES),
        st.sets(st.sampled_from(METHODS), max_size=6),
        st.sets(st.sampled_from(PROPERTIES), max_size=3),
        st.sampled_from([*ERRORS, OwnTextFails]),
    ),
    st.just(lambda: (number for number in [1.0, 2.0])),
)


def build(plan: Any) -> Any:
    """What a strategy planned: Hypothesis itself would trip over the objects."""
    if isinstance(plan, dict):
        return {key: build(part) for key, part in plan.items()}
    return [build(part) for part in plan] if isinstance(plan, list) else plan()


WITHIN = st.recursive(
    OBJECTS,
    lambda inner: (
        st.dictionaries(st.sampled_from(["w", "b", "c1"]), inner, max_size=3) | st.lists(inner, max_size=3)
    ),
    max_leaves=4,
)


def client() -> Any:
    return TASK.client("c1", session=b"s")


def open_server() -> Any:
    server = TASK.server(["c1", "c2"], session=b"s")
    server.start()
    return server


CALLS: dict[str, Callable[[Any, Any], object]] = {
    "Layout.of": lambda it, _: secagg.Layout.of(it),
    "flatten": lambda it, _: TASK.layout.flatten(it),
    "restore": lambda it, _: TASK.layout.restore(np.zeros(5), like=it),
    "mean_like": lambda it, _: OUTCOME.mean_like(it),
    "contribute": lambda it, other: client().contribute(it, other),
    "contribute a leaf": lambda it, _: client().contribute(UPDATE | {"w": it}, 1),
    "contribute a weight": lambda it, _: client().contribute(UPDATE, it),
    "simulate": lambda it, other: secagg.simulate(it, other),
    "simulate updates": lambda it, other: secagg.simulate(TASK, it, weights=other),
    "simulate one update": lambda it, other: secagg.simulate(TASK, [UPDATE, it], weights=[1, other]),
    "simulate dropouts": lambda it, _: secagg.simulate(TASK, [UPDATE] * 3, weights=[1] * 3, dropouts=it),
    "Task.from_bytes": lambda it, _: secagg.Task.from_bytes(it),
    "known": lambda it, _: secagg.Task.from_bytes(TASK.to_bytes(), known=it),
    "Client.from_bytes": lambda it, _: TASK.restore_client(it),
    "Server.from_bytes": lambda it, _: TASK.restore_server(it),
    "client": lambda it, other: TASK.client(it, session=other),
    "server": lambda it, other: TASK.server(it, session=other),
    "receive": lambda it, _: client().receive(it),
    "receive from": lambda it, other: open_server().receive(it, other),
    "receive bytes": lambda it, _: open_server().receive("c1", it),
    "Party": lambda it, _: Roster([Party(it, PartyRole.CLIENT, bytes(32))]).to_json(),
    "clip": lambda it, other: secagg.FixedPoint(clip=it, bits=other),
    "clips": lambda it, other: secagg.FixedPoint(clip={"w": it, "*": other}),
    "suggest": lambda it, other: secagg.FixedPoint.suggest(it, bits=other),
    "corruption": lambda it, _: secagg.SecAgg(corruption=it),
    "diff": lambda it, _: TASK.diff(it),
    "repr": lambda it, _: len(shown(it)) < 100 or 1 / 0,
    "Layout.restore": lambda it, _: TASK.layout.restore(it),
    "restore a dtype": lambda it, _: TASK.layout.restore(np.zeros(5), dtype=it),
    "Client.from_bytes of a task": lambda it, _: secagg.Client.from_bytes(CLIENT, it),
    "Server.from_bytes of a task": lambda it, _: secagg.Server.from_bytes(SERVER, it),
    "decryptor": lambda it, _: TASK.decryptor(it),
    "restore_aggregator": lambda it, _: TASK.restore_aggregator(it),
    "segments": lambda it, _: TASK.encoding.segments(it, None),
    "segments of weights": lambda it, _: TASK.encoding.segments(TASK.layout, it),
    "l2_sensitivity": lambda it, other: secagg.FixedPoint(1.0).l2_sensitivity(it, other),
    "load_roster": lambda it, _: secagg.load_roster(it),
    "load_identity": lambda it, _: load_identity(it),
    "load_sealing_key": lambda it, _: load_sealing_key(it),
    "load_he_key": lambda it, _: load_he_key(it),
    "Roster.from_json": lambda it, _: Roster.from_json(it),
} | {
    name: lambda it, _, name=name: make(**{name: it})  # type: ignore[misc]
    for name in ("protocol", "layout", "encoding", "max_clients", "min_survivors", "max_weight", "context")
}


def _client(**named: Any) -> Any:
    return TASK.client("c1", **{"session": b"s"} | named)


def _server(**named: Any) -> Any:
    return TASK.server(["c1", "c2"], **{"session": b"s"} | named)


def _simulate(progress: Any = None, **named: Any) -> Any:
    if callable(progress):  # what the caller's own function raises is the caller's
        progress = None
    return secagg.simulate(TASK, [UPDATE] * 2, progress=progress, **{"weights": [1, 1]} | named)


CLIENT, SERVER = _client().to_bytes(), _server().to_bytes()
LENT = ("identity", "roster", "save", "key", "executor", "clock", "budget", "beacon", "rng", "ledger")
KEYWORDS: dict[Callable[..., Any], tuple[str, ...]] = {
    **{
        protocol: tuple(field.name for field in dataclasses.fields(protocol))
        for protocol in (
            secagg.SecAgg, secagg.SecAggPlus, secagg.AdditiveShares, secagg.OneShot, secagg.Paillier, secagg.BFV,
            secagg.CKKS,
        )
    },
    partial(SignedBeacon, public_key=b"\1" * 32, genesis=0, period=1): ("public_key", "genesis", "period"),
    _client: ("session", *(name for name in LENT if name != "ledger")),
    _server: ("session", "roster", "save", "rng", "executor", "beacon"),
    partial(secagg.Task.restore_client, TASK, CLIENT): LENT,
    partial(secagg.Task.restore_server, TASK, SERVER): LENT,
    _simulate: ("weights", "dropouts", "budgets", "session", "progress", "executor", "beacon"),
}  # fmt: skip


def _called(call: Callable[..., Any]) -> str:
    function = call.func if isinstance(call, partial) else call
    return getattr(function, "__name__", "")


CALLS |= {
    f"{_called(call)} {name}": lambda it, _, call=call, name=name: call(**{name: it})  # type: ignore[misc]
    for call, names in KEYWORDS.items()
    for name in names
}


def test_every_keyword_of_what_makes_roles_is_tried() -> None:
    for call, named in ((TASK.client, _client), (TASK.server, _server), (secagg.simulate, _simulate)):
        parameters = inspect.signature(call).parameters.values()
        assert set(KEYWORDS[named]) == {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert set(LENT) == {field.name for field in dataclasses.fields(Environment)}


def make(**changed: Any) -> secagg.Task:
    fields = {name: getattr(TASK, name) for name in TASK.__dataclass_fields__}
    return secagg.Task(**fields | changed)


OUTCOME = secagg.simulate(TASK, [UPDATE] * 2, weights=[1, 1])


@pytest.fixture(autouse=True, scope="module")
def _fewer_nodes() -> Iterator[None]:
    """An endless container is read to its limit: a smaller one saves a second each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secagg._reading.MAX_NODES", 4096)
        yield


def refusal(name: str, first: Any, second: Any) -> str:
    """What our error says; empty if it was taken. Any other error comes out."""
    try:
        CALLS[name](first, second)
    except SecAggError as error:
        return str(error)
    return ""


@settings(max_examples=6 * settings().max_examples)
@given(WITHIN, WITHIN, st.sampled_from(sorted(CALLS)))
def test_nothing_but_our_errors_comes_out(first: Any, second: Any, name: str) -> None:
    assert len(refusal(name, build(first), build(second))) < 2000


@pytest.mark.parametrize("name", sorted(CALLS))
def test_each_odd_object_in_each_place(name: str) -> None:
    refused = [refusal(name, odd, 1) for odd in ODD]
    assert any(refused) or name in TAKES_ALL


TAKES_ALL = {"repr", "receive from", "receive bytes"}  # a server records a fault


@pytest.mark.parametrize("error", [TypeError, KeyError, AttributeError, RuntimeError, OwnTextFails])
@pytest.mark.parametrize("method", ["segments", "encode", "decode", "describe"])
def test_an_encoding_that_breaks_its_promise_is_named(method: str, error: type[Exception]) -> None:
    class Broken(secagg.FixedPoint):
        __slots__ = ()

    def fail(*arguments: Any, **named: Any) -> Any:
        raise error("broken")

    setattr(Broken, method, fail)

    def run() -> None:
        task = make(encoding=Broken(1.0))
        task.describe()
        secagg.simulate(task, [UPDATE] * 2, weights=[1, 1])

    with pytest.raises(SecAggError) as raised:
        run()
    assert error is OwnTextFails or error.__name__ in str(raised.value) or "broken" in str(raised.value)


def test_no_message_runs_an_objects_own_text() -> None:
    called = []

    class Spy:
        def __repr__(self) -> str:
            called.append(self)
            return "secret"

        __str__ = __repr__

    texts = [refusal(name, Spy(), Spy()) for name in sorted(set(CALLS) - TAKES_ALL)]
    assert all(texts)
    server = open_server()
    for sender, data in ((Spy(), b""), ("c1", Spy()), *((odd, odd) for odd in ODD)):
        assert server.receive(sender, data) == {}
    assert server.faults
    texts += [str(fault) for fault in server.faults]
    assert "secret" not in "".join(texts)
    assert not called
