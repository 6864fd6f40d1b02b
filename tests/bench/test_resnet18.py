import json
import math
import os
import pickle
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import spending
from bench.apart import apart
from bench.commands import app
from bench.dots import dots
from bench.measure import WrongSum
from bench.resnet18 import ResNet18, shapes
from bench.spending import Measuring, Party, Row, Spent, bounds, measured, play_apart
from bench.workloads import Expected
from secagg import Clear, ConfigError, Round
from secagg.errors import SecAggError
from secagg.protocols import chosen, named
from secagg.table import rounds
from tests.bench.broken import ClearForgetful, ClearOffByOne

TINY = ResNet18(clients=4, dropout=0.0, width=1)


def party(cpu, seconds=1.0):
    return Party({Round.OPENING: Spent(seconds, cpu, 100, 10)}, 10**7)


def row(name, client=0.5, other=1.8):
    return Row.of(name, named()[name], [{"client": party(client), "server": party(1.0), "other": party(other)}])


def test_the_leaves_are_those_of_torchvisions_resnet18():
    leaves = shapes()
    buffers = [name for name in leaves if name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert (len(leaves), len(buffers)) == (122, 60)
    # Torchvision publishes 11,689,512 parameters. The twenty normalizations have 4,800 channels.
    assert sum(math.prod(shape) for name, shape in leaves.items() if name not in buffers) == 11_689_512
    assert sum(math.prod(leaves[name]) for name in buffers) == 2 * 4800 + 20
    assert leaves["conv1.weight"] == (64, 3, 7, 7)
    assert leaves["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert leaves["layer4.1.conv2.weight"] == (512, 512, 3, 3)
    assert leaves["fc.weight"] == (1000, 512)
    assert leaves["bn1.num_batches_tracked"] == ()
    assert "layer1.0.downsample.0.weight" not in leaves


def test_a_narrow_network_has_the_same_leaves():
    assert list(shapes(1)) == list(shapes())
    assert [leaf.name for leaf in TINY.layout.leaves] == sorted(shapes(1), key=lambda name: name.split("."))
    assert TINY.layout.size == TINY.coordinates < 60_000


def test_updates_are_each_clients_own_and_follow_the_seed():
    first, second = (TINY.flat(TINY.updates()[client]) for client in ("c1", "c2"))
    assert (first == TINY.flat(TINY.updates()["c1"])).all()
    assert (first != second).mean() > 0.99
    assert (first != TINY.flat(replace(TINY, seed=1).updates()["c1"])).mean() > 0.99
    assert first.dtype == np.float32
    assert -1 <= first.min() < -0.99 < 0.99 < first.max() <= 1


def test_an_update_goes_to_another_process_as_a_rule():
    update = TINY.updates()["c3"]
    message = pickle.dumps(update)
    assert len(message) < 10_000
    assert (TINY.flat(pickle.loads(message)) == TINY.flat(update)).all()


def test_the_exact_sum_does_not_use_the_librarys_order_of_leaves():
    """Sums are compared leaf by leaf: a value that is right in another leaf is wrong."""
    expected = Expected.of(TINY, TINY.updates())
    flat = sum(TINY.flat(TINY.update(client)).astype(float) for client in TINY.survivors)
    total = TINY._nested(np.rint(flat * 1e9) / 1e9)
    assert expected.differs(TINY.flat(total)) > 0  # unquantized
    steps = TINY._nested(expected.steps / expected.scale)
    assert expected.differs(TINY.flat(steps)) == 0
    steps["bn1"]["weight"], steps["bn1"]["bias"] = steps["bn1"]["bias"], steps["bn1"]["weight"]
    assert expected.differs(TINY.flat(steps)) == 2


def test_each_party_has_its_rounds_bytes_and_memory(tmp_path):
    target, picture = tmp_path / "r.json", tmp_path / "r.png"
    files = ["--json", str(target), "--html", str(tmp_path / "r.html"), "--out", str(picture)]
    names = ["--protocol", "SecAgg", "--protocol", "BFV", "--protocol", "Paillier", "--skip", "paillier"]
    result = CliRunner().invoke(
        app, ["resnet18", "--width", "1", "--clients", "5", "--dropout", "0.2", *names, *files]
    )
    assert result.exit_code == 0, result.output
    document = json.loads(target.read_text())
    assert document["finished"]
    assert [one["protocol"] for one in document["rows"]] == ["SecAgg", "BFV"]
    workload = ResNet18(clients=5, dropout=0.2, width=1)
    assert document["workload"]["coordinates"] == workload.coordinates
    assert document["bounds"] == []  # of ResNet-18 alone
    for one in document["rows"]:
        protocol = named()[one["protocol"]]
        cost = protocol.cost(workload.task(protocol), workload.ids)
        assert 0.8 * sum(cost.up.values()) < one["bytes_up"] <= sum(cost.up.values())
        client, server = one["parties"]["client"]["rounds"], one["parties"]["server"]["rounds"]
        assert list(client) == list(rounds(protocol))
        assert set(server) == {"start", *(phase.round for phase in protocol.phases)}
        assert all(spent["cpu_seconds"] > 0 for spent in (*client.values(), *server.values()))
        assert one["client_cpu_seconds"] == pytest.approx(sum(spent["cpu_seconds"] for spent in client.values()))
        assert (one["other_memory"] is None) == (not protocol.party_counts)
        assert one["protocol"] in result.output
    assert "BFV, decryptor" in result.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "r.html").read_text()
    document["rows"][1]["client_cpu_seconds"] *= 2
    (tmp_path / "slow.json").write_text(json.dumps(document))
    for new, code in (("r.json", 0), ("slow.json", 1)):
        assert CliRunner().invoke(app, ["compare", str(target), str(tmp_path / new)]).exit_code == code


@pytest.mark.parametrize(
    ("broken", "message"),
    [(ClearOffByOne(), r"1 of [\d,]+ coordinates of the sum are wrong"), (ClearForgetful(), "these differ: c2")],
)
def test_control_a_broken_protocol_fails_the_session(broken, message):
    with pytest.raises(WrongSum, match=message):
        play_apart(broken, TINY)


def test_a_wrong_sum_of_the_process_is_one_of_this_process(monkeypatch, tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'Clear: 1 of 5 coordinates of the sum are wrong' >&2\nexit 3\n")
    script.chmod(0o700)
    monkeypatch.setattr(spending.sys, "executable", str(script))
    measuring = Measuring(TINY, {"Clear": Clear()})
    with pytest.raises(WrongSum, match=r"^Clear: 1 of 5"):
        measuring.run(1, lambda name, doing: None)
    assert not measuring.rows
    monkeypatch.setattr(spending.sys, "executable", "/bin/false")
    with pytest.raises(SecAggError, match="exited with 1: it printed no error"):
        measured("Clear", TINY)


def test_an_interrupt_ends_the_processes_of_all_parties(monkeypatch):
    ended = []

    def kill(group, signal_):
        ended.append(group)
        killpg(group, signal_)

    def interrupted(doing):
        raise KeyboardInterrupt

    killpg = os.killpg
    monkeypatch.setattr(os, "killpg", kill)
    with pytest.raises(KeyboardInterrupt):
        measured("Clear", TINY, interrupted)
    (group,) = ended
    with pytest.raises(ProcessLookupError):
        _wait_for(group, killpg)


def _wait_for(group, killpg):
    for _ in range(1000):  # until the system has collected the killed processes
        killpg(group, 0)
        time.sleep(0.01)


def test_a_process_of_a_party_that_dies_is_an_error_in_words():
    session, away = apart(Clear(), TINY, clients=1)
    os.kill(away["server"]._pid, signal.SIGKILL)
    with pytest.raises(SecAggError, match="ended before its session did"):
        session.run(TINY.updates(), None)
    away["c1"].end()


def test_paillier_comes_last_and_steps_are_counted():
    measuring = Measuring(TINY, chosen(["Paillier", "SecAgg", "Clear"]))
    assert list(measuring.protocols) == ["SecAgg", "Clear", "Paillier"]
    assert measuring.steps == 3 + 5 + 1 + 4


def test_the_bounds_are_of_resnet18_with_ten_clients_alone(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    rows = [row("BFV", client=0.6), row("CKKS", client=0.81), row("Paillier", other=1.4)]
    held = bounds(rows, ResNet18())
    assert [one.holds for one in held] == [True, False, False]
    assert not bounds(rows, ResNet18(clients=11))
    assert not bounds(rows, TINY)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert len(bounds(rows, ResNet18())) == 2


def test_a_row_has_the_medians_of_its_sessions():
    sessions = [{"client": party(cpu), "server": party(cpu)} for cpu in (5.0, 1.0, 2.0)]
    assert Row.of("Clear", Clear(), sessions).client_cpu_seconds == 2.0
    assert Row.of("Clear", Clear(), sessions).other_seconds is None


def test_the_picture_has_a_dot_for_each_party_and_protocol():
    figure = dots([row("BFV"), row("CKKS")], ResNet18())
    seconds, sent, memory = figure.axes
    assert (
        [len(line.get_xdata()) for line in seconds.lines]
        == [2, 2, 2]
        == [len(one.get_xdata()) for one in memory.lines]
    )
    assert [label.get_text() for label in seconds.get_yticklabels()] == ["BFV", "CKKS"]
    assert [text.get_text() for text in sent.texts] == ["float32 in the clear"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "0"], "got --width 0; expected 1 to 512"),
        (["--skip", "Nobody"], "got --skip Nobody; expected any of Clear"),
        (["--protocol", "BFV", "--skip", "BFV"], "at least one that is left"),
        (["--clients", "3"], "expected 4 to"),
        (["--width", "512", "--clients", "1000"], "a smaller --width, or --skip Clear"),
    ],
)
def test_a_request_that_is_not_possible_is_refused(arguments, message):
    result = CliRunner().invoke(app, ["resnet18", *arguments])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)
