import asyncio
import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from bench import service, service_crowd, service_sessions
from bench.commands import app
from bench.measure import WrongSum
from bench.oneshot_calls import Large
from bench.service import FULL, QUICK, Measuring, bounds, figures, grids, wholes
from bench.service_line import Line
from bench.service_sessions import Session, Waiting
from bench.service_uploads import ALONE, KEPT, NEW, Uploads
from secagg import Clear
from secagg.errors import SecAggError

updates = Large.updates


def test_every_bound_is_measured_in_one_run(tmp_path):
    target = tmp_path / "service.json"
    arguments = ["service", "--quick", "--turns", "2", "--json", str(target)]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(target.read_text())
    assert document["finished"]
    assert document["sizes"]["session"]["clients"] == QUICK.session.clients
    held = {one["what"]: one for one in document["bounds"]}
    assert len(held) == 4
    assert held["40 long polls: answers 500 and above"]["measured"] == 0
    assert held["40 long polls: MB more than before"]["holds"]
    assert all(one["what"] in result.output for one in document["figures"])
    document["figures"][0]["bytes_sent"] *= 2
    (tmp_path / "worse.json").write_text(json.dumps(document))
    for new, code in (("service.json", 0), ("worse.json", 1)):
        assert CliRunner().invoke(app, ["compare", str(target), str(tmp_path / new)]).exit_code == code


def test_control_a_wrong_sum_has_no_figures(monkeypatch):
    seeds = iter(range(9))
    monkeypatch.setattr(Large, "updates", lambda workload: updates(replace(workload, seed=next(seeds))))
    with pytest.raises(WrongSum, match="40 of 40 coordinates of the sum are wrong"):
        service_sessions.session(Clear(), Large(4, 40, 0.0, 16), 2)


def test_a_party_that_the_service_refuses_ends_the_run(monkeypatch):
    monkeypatch.setattr(service_crowd.Crowd, "headers", lambda crowd, party: {"authorization": "Bearer x.y.z"})
    with pytest.raises(SecAggError, match="answered a poll with 401"):
        service_sessions.waiting(Clear(), Large(4, 40, 0.0, 16))


def test_more_files_than_the_system_allows_are_refused_before_a_process_starts():
    with pytest.raises(SecAggError, match=r"limit of .* open files; raise it"):
        service_sessions.allow_files(1 << 40)


def test_a_kept_connection_that_was_closed_is_opened_again_and_a_new_one_is_not():
    answered = []

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        answered.append(None)
        if len(answered) < 4:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    async def play():
        server = await asyncio.start_server(answer, "127.0.0.1")
        async with server:
            line = Line(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", None)
            for _ in range(3):
                assert (await line.request("GET", "/", {})).body == b"ok"
            with pytest.raises(SecAggError, match="closed the connection during GET"):
                await line.request("GET", "/", {})

    asyncio.run(play())
    assert len(answered) == 4


def test_the_bounds_are_of_ratios_within_one_run_and_of_sessions_that_are_not_one_burst():
    measuring = Measuring(FULL)
    assert not bounds(measuring)
    assert not figures(measuring)
    assert not grids(measuring, "a processor")
    measuring.uploads["Clear"] = Uploads({ALONE: [1.0, 2.0, 3.0], KEPT: [3.4, 6.9, 12.0], NEW: [5.0, 9.0, 13.0]}, 7)
    one = Session("SecAggPlus", 1000, 128, 10**6, 2_000_000, 60.0, 20.0, 9.0, 272_000_000, 0)
    burst = Session("SecAggPlus", 1000, 1000, 10**6, 2_000_000, 60.0, 20.0, 9.0, 900_000_000, 0)
    measuring.sessions += [one, burst]
    measuring.waiting = Waiting(5000, 300_000_001, 9.0, 10.0, 70.0, 15.0, 1)
    assert [one.holds for one in bounds(measuring)] == [True, True, False, False]
    assert bounds(measuring)[0].measured == pytest.approx(3.45)
    assert bounds(measuring)[1].most == pytest.approx(272.435456)
    uploads, sessions = grids(measuring, "a processor")
    assert len(uploads.rows) == len(figures(measuring)) == 4
    assert len(sessions.rows) == len(wholes(measuring)) == 3
    assert FULL.session.clients > service.AT_ONCE
