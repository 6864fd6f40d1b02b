"""Ten hospitals train over HTTPS: a real server process, a process for each hospital, and two deaths on the way.

``make service-demo`` runs it. It types the commands that operators and hospitals type, kills one hospital in the
second round and the server in the third, starts both again, and compares the model with one that was trained in one
process. Run with arguments of its own, the module is also the hospital's process and the server's training loop.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import secagg
from secagg.demo import model, problems
from secagg.demo.learner import ENCODING
from secagg.errors import SecAggError
from secagg.service import Service
from secagg.service.status import Status, decode
from secagg.service.terminal import fetch

HOSPITALS, ROUNDS, SEED = 10, 6, 0
DIES_IN_ROUND = {2: "hospital-07", 3: "server"}
SECONDS = 180.0  # for the whole demo
_RESULT = "result.json"

_SETTINGS = """[service]
url = "https://localhost:{port}"
listen = "127.0.0.1:{port}"
status = "127.0.0.1:{status}"
folder = "state"
certificate = "tls/server.crt"
key = "tls/server.key"
ca = "tls/ca.crt"

[[task]]
file = "task.bin"
roster = "roster.json"
signature = "roster.sig"
registrar = "registrar.pub"

[task.schedule]
gather = 60
deadline = 60
training = 60
"""


def load() -> problems.Problem:
    """The data of all hospitals; in a deployment each has its own."""
    return problems.load("hospitals", HOSPITALS, SEED, private=True)


def make_task(problem: problems.Problem) -> secagg.Task:
    """What everyone pins: SecAgg over the updates, weighted by patients."""
    return secagg.Task(
        protocol=secagg.SecAgg(),
        layout=secagg.Layout.of(problem.initial()),
        encoding=ENCODING,
        max_clients=HOSPITALS,
        min_survivors=8,
        max_weight=max(problem.weights.values()),
        context=b"service demo",
    )


def train(service: Service) -> None:
    """The training loop of the server's process: ``secagg serve service.toml --loop secagg.demo.served:train``."""
    problem = load()
    current = problem.initial()
    for _ in range(ROUNDS):
        outcome = service.round(current, config={"epochs": problem.epochs})
        current = model.add(current, outcome.mean_like(current))
    result = {
        "model": {name: values.tolist() for name, values in current.items()},
        "correct": problem.correct(current),
    }
    Path(_RESULT).write_text(json.dumps(result))


def take_part(name: str) -> None:
    """One hospital's process."""
    problem = load()
    with secagg.connect(f"{name}.kit", state=name) as remote:
        for offer in remote.offers():
            start = offer.model(like=problem.initial())
            update = problem.update(start, name, offer.number, offer.config["epochs"], 0.0)
            offer.contribute(update, weight=problem.weights[name])


def trained_alone(problem: problems.Problem, task: secagg.Task) -> model.Model:
    """The model after the same rounds in one process."""
    current = problem.initial()
    for number in range(1, ROUNDS + 1):
        updates = {name: problem.update(current, name, number, problem.epochs, 0.0) for name in problem.weights}
        outcome = secagg.simulate(task, updates, weights=problem.weights)
        current = model.add(current, outcome.mean_like(current))
    return current


class Processes:
    """The server and the hospitals; none of them outlives the demo."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._running = folder, dict[str, subprocess.Popen[bytes]]()

    def start(self, name: str) -> None:
        """Start the process of ``name``."""
        server = ["-m", "secagg", "serve", "service.toml", "--loop", "secagg.demo.served:train"]
        arguments = server if name == "server" else ["-m", "secagg.demo.served", "--hospital", name]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [sys.executable, *arguments], cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, name: str) -> None:
        """Kill the process of ``name`` as a crash would."""
        self._running[name].send_signal(signal.SIGKILL)
        self._running[name].wait()

    def wait(self, until: float) -> None:
        """Wait until all have ended; ``SecAggError`` with the end of its log if one failed."""
        for name, process in self._running.items():
            try:
                code = process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                code = -1
            if code:
                raise SecAggError(f"{name} ended with code {code}; its log ends with:\n{self.tail(name)}")

    def tail(self, name: str) -> str:
        """The end of a log."""
        return (self._folder / f"{name}.log").read_text(errors="replace")[-1500:]

    def stop(self) -> None:
        """Kill all that run."""
        for process in self._running.values():
            process.kill()
            process.wait()


@contextmanager
def _processes(folder: Path) -> Iterator[Processes]:
    processes = Processes(folder)
    try:
        yield processes
    finally:
        processes.stop()


def enrol(folder: Path, problem: problems.Problem, say: Any) -> tuple[secagg.Task, str]:
    """Type the commands of an enrolment in ``folder``; returns the task and the status page's address."""
    task = make_task(problem)
    (folder / "task.bin").write_bytes(task.to_bytes())
    port, status = _free_ports()
    (folder / "service.toml").write_text(_SETTINGS.format(port=port, status=status))
    names = list(problem.weights)
    requests = [f"{name}/{name}.enrol" for name in names]
    commands = [
        *(["keygen", name, "--out", name] for name in names),
        ["keygen", "--registrar", "registrar"],
        ["roster", "build", *requests],
        ["roster", "sign", "roster.json", "--key", "registrar.pem"],
        ["tls", "localhost"],
        ["kit", *names, "--out", "."],
    ]
    for command in commands:
        text = " ".join(command)
        say(f"$ secagg {text if len(text) <= 70 else text[:66] + ' ...'}")
        typed = [sys.executable, "-m", "secagg", *command]
        subprocess.run(typed, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - as above
    return task, f"http://127.0.0.1:{status}"


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def play(folder: Path, *, browser: bool, say: Any) -> dict[str, Any]:
    """Play the whole demo in ``folder``; returns what happened."""
    began, problem = time.monotonic(), load()
    task, page = enrol(folder, problem, say)
    deaths: list[str] = []
    with _processes(folder) as processes:
        for name in ["server", *problem.weights]:
            processes.start(name)
        say(f"\nthe server and {HOSPITALS} hospitals run, each in a process of its own; the status page: {page}")
        shown = False
        for status in _statuses(page, folder, began + SECONDS, processes):
            if browser and not shown:
                shown = webbrowser.open(page)
            number = status.tasks[0].number
            victim = DIES_IN_ROUND.get(number)
            running = any(one.state == "running" for one in status.sessions)
            if victim is not None and victim not in deaths and running:
                say(f"round {number}: kill -9 of {victim}, which starts again")
                processes.kill(victim)
                deaths.append(victim)
                processes.start(victim)
        processes.wait(began + SECONDS)
    result = json.loads((folder / _RESULT).read_text())
    alone = trained_alone(problem, task)
    same = {name: values.tolist() for name, values in alone.items()} == result["model"]
    return {
        "rounds": ROUNDS,
        "hospitals": HOSPITALS,
        "killed": deaths,
        "correct": result["correct"],
        "tested": problem.tested,
        "same_model": same,
        "seconds": round(time.monotonic() - began, 1),
    }


def _statuses(page: str, folder: Path, until: float, processes: Processes) -> Iterator[Status]:
    """The status document again and again, until the training loop has its result."""
    while not (folder / _RESULT).exists():
        if time.monotonic() > until:
            raise SecAggError(f"the training did not end in {SECONDS:.0f} s; the server's log ends with:\n"
                              f"{processes.tail('server')}")  # fmt: skip
        try:
            status = decode(fetch(page))
        except SecAggError:
            time.sleep(0.1)  # it starts
            continue
        yield status
        time.sleep(0.05)


def main() -> None:
    """Run the demo, or one hospital of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else, to stdout")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder for all files, kept at the end")
    parser.add_argument("--no-browser", action="store_true", help="don't open the status page")
    parser.add_argument("--hospital", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hospital:
        take_part(options.hospital)
        return
    folder = options.keep or Path(tempfile.mkdtemp(prefix="secagg-service-"))
    folder.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        print(text, file=sys.stderr if options.json else sys.stdout, flush=True)

    seen = sys.stdout.isatty() and bool(os.environ.get("DISPLAY") or sys.platform in ("darwin", "win32"))
    try:
        result = play(folder, browser=seen and not options.no_browser, say=say)
    except SecAggError as error:
        sys.exit(f"secagg: {error}")
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(result))
    else:
        verdict = "equals" if result["same_model"] else "DIFFERS FROM"
        killed = " and ".join(result["killed"])
        say(f"\n{result['rounds']} rounds in {result['seconds']} s; {killed} died and came back")
        say(f"{result['correct']} of {result['tested']} patients are classified correctly")
        say(f"the model {verdict} one that was trained in one process, to the last bit")
    sys.exit(0 if result["same_model"] else 1)


if __name__ == "__main__":
    main()
