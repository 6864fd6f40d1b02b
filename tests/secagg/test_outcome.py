"""What a caller reads of a session: kinds, comparisons, short texts, the warning of a clip that is too small."""

import logging
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import secagg
from secagg.errors import FaultKind
from secagg.store import MemoryLedger
from secagg.testing import MemoryStore

UPDATE = {"w": np.full(500, 0.5, np.float32), "n": 7, "state": None}
TASK = secagg.Task(
    protocol=secagg.Clear(),
    layout=secagg.Layout.of(UPDATE),
    encoding=secagg.FixedPoint(clip={"*": 1.0, "n": 100.0}, rounding="nearest"),
    max_clients=10,
    min_survivors=2,
)


def run(task: secagg.Task = TASK, **named: Any) -> secagg.Simulation:
    return secagg.simulate(task, [UPDATE] * 8, **named)


def test_equal_runs_are_equal_and_others_are_not() -> None:
    result = run()
    assert result == run()
    assert result != run(dropouts={"c3": "Input"})
    assert result != secagg.simulate(TASK, [UPDATE | {"n": 8}] * 8)
    assert result != replace(result, clipped=1)
    assert result != replace(result, mean=result.mean | {"w": result.mean["w"].astype(np.float64)})
    nan = replace(result, mean={"w": np.array([np.nan]), "n": float("nan")})
    assert nan == replace(nan, mean={"w": np.array([np.nan]), "n": float("nan")})
    assert result != 3
    assert result == replace(result, seconds={})


def test_texts_are_short_and_say_who_is_in_the_sum() -> None:
    text = repr(run(dropouts={"c3": "Input"}))
    assert text.startswith("<Simulation: sum of 7 clients (c1, c2, c4, c5, c6, and 2 more); total weight 7;")
    assert "; dropped c3 in Input; faults 1; clipped 0 of 3,507 coordinates; bytes up " in text
    assert "0.5" not in text
    assert len(text) < 300
    page = replace(run(), survivors=("<script>",), dropped={"<b>": "<i>"})._repr_html_()
    assert "&lt;script&gt;" in page
    assert not {"<script>", "<b>", "<i>"} & set(page.split(" "))
    assert "<b>" not in page
    assert len(repr(TASK)) < 200
    assert "SecAgg" not in repr(TASK)
    task = replace(TASK, context=b"<script>")
    assert "<script>" not in task._repr_html_()


def test_the_mean_in_the_updates_own_kind() -> None:
    got = run().mean_like(UPDATE)
    assert list(got) == list(UPDATE)
    assert got["n"] == 7
    assert type(got["n"]) is int
    assert got["state"] is None
    assert got["w"].dtype == np.float32
    np.testing.assert_allclose(got["w"], 0.5, atol=1e-4)
    with pytest.raises(secagg.EncodingError, match=r"\['b'\]: got nothing"):
        run().mean_like(UPDATE | {"b": np.ones(1)})


@pytest.mark.stacks
def test_the_mean_loads_into_a_torch_model() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    model[0].half()
    model[1].num_batches_tracked += 1500
    state = model.state_dict()
    task = replace(TASK, layout=secagg.Layout.of(state), encoding=secagg.FixedPoint.suggest([state]))
    got = secagg.simulate(task, [state] * 3).mean_like(state)
    assert type(got) is OrderedDict
    assert {name: (t.dtype, t.device, t.shape) for name, t in got.items()} == {
        name: (t.dtype, t.device, t.shape) for name, t in state.items()
    }
    assert got["1.num_batches_tracked"].item() == 1500
    model.load_state_dict(got)


@pytest.mark.parametrize(("clipped", "warns"), [(5, False), (6, True), (500, True)])
def test_a_clip_that_is_too_small_is_a_warning(clipped: int, warns: bool, caplog: pytest.LogCaptureFixture) -> None:
    update = UPDATE | {"w": np.array([1.5] * clipped + [0.5] * (500 - clipped), np.float32)}
    with caplog.at_level(logging.WARNING, "secagg"):
        result = secagg.simulate(TASK, [update] * 2)
    assert result.clipped == 2 * clipped
    lines = [line for line in caplog.messages if "of all coordinates were clipped" in line]
    assert len(lines) == warns
    if warns:
        assert f"{100 * clipped / 501:.1f} % of all coordinates" in lines[0]
        assert "FixedPoint.suggest" in lines[0]


def test_a_simulation_says_once_what_happened_to_many_clients(caplog: pytest.LogCaptureFixture) -> None:
    task = replace(TASK, max_clients=5, max_weight=1000)
    lost = UPDATE | {"n": 10**6}
    updates = {f"c{number}": lost if number < 5 else UPDATE for number in range(1, 6)}
    secagg.simulate(task, updates, weights=[1000, 1000, 1, 1000, 1])
    lines = [line for line in caplog.messages if "every coordinate" in line or "a weight" in line]
    assert len(lines) == 2
    assert lines[0].startswith("c1, c2, c3 and 1 more: every coordinate was clipped in 1 of 2 leaves: 'n'")
    assert lines[1].startswith("c3, c5: a weight leaves this update fewer than 8 of its 16 bits")


def test_a_clients_own_warning_names_it(caplog: pytest.LogCaptureFixture) -> None:
    TASK.client("c7", session=b"s").contribute(UPDATE | {"n": 10**6})
    assert caplog.messages[-1].startswith("c7: every coordinate was clipped in 1 of 2 leaves: 'n'")


def test_a_difference_of_tasks_names_the_field() -> None:
    assert TASK.diff(secagg.Task.from_bytes(TASK.to_bytes())) == ()
    other = replace(
        TASK,
        max_clients=12,
        context=b"other",
        layout=secagg.Layout.of({"w": np.zeros((250, 2), np.float32), "n": np.zeros(1), "b": 1.0}),
        encoding=secagg.FixedPoint(clip={"*": 2.0, "b": 1.0}, rounding="nearest"),
    )
    assert set(TASK.diff(other)) == {
        "layout.leaves[n].shape[0]: only there",
        "layout.leaves[w].shape[0]: 500 here, 250 there",
        "layout.leaves[w].shape[1]: only there",
        "layout.leaves[n].dtype: 'int' here, 'float64' there",
        "layout.leaves[b]: only there",
        "layout.branches[state]: only here",
        "encoding.clip[*][1]: 1.0 here, 2.0 there",
        "encoding.clip[n]: only here",
        "encoding.clip[b]: only there",
        "max_clients: 10 here, 12 there",
        "context: b'' here, b'other' there",
    }
    assert replace(TASK, protocol=secagg.SecAgg(0.1), min_survivors=9).diff(
        replace(TASK, protocol=secagg.SecAgg(0.2), min_survivors=9)
    ) == ("protocol.corruption: 0.1 here, 0.2 there",)
    with pytest.raises(secagg.ConfigError, match="expected a task"):
        TASK.diff(TASK.to_bytes())  # type: ignore[arg-type]


def test_a_client_of_another_task_is_told_how_to_find_the_difference() -> None:
    server = replace(TASK, max_clients=11).server(["c1", "c2"], session=b"s")
    with pytest.raises(secagg.RemoteProtocolError, match=r"task\.diff\(Task\.from_bytes\(theirs\)\)") as refused:
        TASK.client("c1", session=b"s").receive(server.start()["c1"])
    assert refused.value.fault.kind is FaultKind.FOREIGN_TASK


def test_a_dropout_in_a_round_of_another_protocol_is_refused() -> None:
    with pytest.raises(secagg.ConfigError, match=r"got a dropout in 'MaskedInput'; Clear has Input"):
        secagg.simulate(replace(TASK, protocol=secagg.Clear()), [UPDATE] * 3, dropouts={"c1": "MaskedInput"})


def test_swapped_arguments_of_simulate_are_named() -> None:
    with pytest.raises(secagg.ConfigError, match=r"the arguments are swapped: simulate\(task, updates\)"):
        secagg.simulate([UPDATE] * 3, TASK)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", [secagg.Clear(), secagg.SecAgg(0.1, "semi-honest")])
def test_an_empty_session_name_is_a_name(protocol: Any) -> None:
    task = replace(TASK, protocol=protocol, min_survivors=3)
    assert secagg.simulate(task, [UPDATE] * 3, session=b"").survivors == ("c1", "c2", "c3")
    cohort = ["c1", "c2", "c3"]
    nameless, other = (task.server(cohort, session=name).start()["c1"] for name in (b"", b"x"))
    for name, fits, refused, its in ((b"", nameless, other, b"x"), (b"x", other, nameless, b"")):
        client = task.client("c1", session=name)
        assert client.session == name
        named = f"a proposal for session {its!r}, and this role was made for {name!r}"
        with pytest.raises(secagg.RemoteProtocolError, match=named) as foreign:
            client.receive(refused)
        assert foreign.value.fault.kind is FaultKind.FOREIGN_SESSION
        client.contribute(UPDATE)
        assert client.receive(fits)
    unnamed = task.client("c1")
    assert unnamed.session is None
    with pytest.raises(secagg.LocalProtocolError, match="before the session is known"):
        unnamed.contribute(UPDATE)


def test_one_upload_holds_under_an_empty_session_name_too() -> None:
    ledger, cohort = MemoryLedger(), ["c1", "c2"]
    for attempt in range(2):
        client = TASK.client("c1", session=b"", save=MemoryStore(ledger))
        client.contribute(UPDATE)
        request = TASK.server(cohort, session=b"").start()["c1"]  # with a nonce of its own: another session
        if attempt:
            with pytest.raises(secagg.Aborted, match="another upload"):
                client.receive(request)
        else:
            assert client.receive(request)
