"""Secure aggregation over a transport of one's own: a server and five clients, each a process of its own.

    pip install "secagg[client]"                # signs the tokens
    python examples/two_processes.py            # three scenes; a few seconds each
    python examples/two_processes.py --json     # the results for machines; the log goes to stderr

``secagg.arun_client`` and ``secagg.arun_server`` run the roles, and ``secagg.PartyFolder`` keeps what must outlive
a process. This file adds what they leave to you: TLS, a first frame that proves who calls, messages with a length
in front, and connections that are made again. Each scene kills a process with SIGKILL in the middle of a session:

1. a client dies when it is asked for its input, and stays away: the sum is opened without it;
2. a client dies after its input was saved and before it was sent: it restarts, and is in the sum;
3. the server dies after three of five inputs: it restarts and asks again, and the sum is the same.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import ssl
import sys
import tempfile
import threading
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

import secagg
from secagg.api.tokens import Callers, sign_token
from secagg.certificates import write_certificates
from secagg.identity import Roster, load_identity
from secagg.keygen import write_identities

CLIENTS = ["c1", "c2", "c3", "c4", "c5"]
SESSION = b"round 1"
ADDRESS = "127.0.0.1"
LIMIT = 1 << 20  # bytes of a message
INPUT_REQUEST = 3  # the number of the request for the input, after AdvertiseKeys and ShareKeys
BOOT_SECONDS = 30  # for all parties to start and connect

# 1. The agreement. The parent process is the operator: it writes the task, the roster and the keys. Every other
# process reads the task, the roster and its own keys.


def local_update(client: str) -> dict[str, NDArray[np.float64]]:
    """A client's update: whole numbers, so that the sum can be checked to the last bit."""
    rng, sizes = np.random.default_rng(CLIENTS.index(client)), {"bias": 4, "weights": 60}
    return {name: rng.integers(-1000, 1000, size).astype(np.float64) for name, size in sizes.items()}


def make_task() -> secagg.Task:
    return secagg.Task(
        protocol=secagg.SecAgg(corruption=0.33),  # one of the five clients may collude with the server
        layout=secagg.Layout.of(local_update("c1")),
        encoding=secagg.FixedPoint(clip=32767.0, bits=16, rounding="nearest"),  # a grid of whole numbers
        max_clients=len(CLIENTS),
        min_survivors=4,
        context=b"two processes",
    )


def write_agreement(folder: Path) -> None:
    (folder / "task").write_bytes(make_task().to_bytes())
    write_identities(CLIENTS, folder)
    write_certificates([ADDRESS], folder)


def read_agreement(folder: Path) -> tuple[secagg.Task, Roster]:
    return secagg.Task.from_bytes((folder / "task").read_bytes()), secagg.load_roster(folder / "roster.json")


# 2. The transport: TLS 1.3. A frame is four bytes of length, then a message. The first frame of a connection is a
# token that the client signs with the key that the roster lists for it.


async def read_frame(reader: StreamReader) -> bytes:
    if (size := int.from_bytes(await reader.readexactly(4), "big")) > LIMIT:
        raise ConnectionError(f"got a frame of {size} bytes; expected at most {LIMIT}")
    return await reader.readexactly(size)


def frame(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


async def connect(folder: Path, me: str, task: secagg.Task) -> tuple[StreamReader, StreamWriter]:
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    port = int((folder / "port").read_text())
    reader, writer = await asyncio.open_connection(ADDRESS, port, ssl=context)
    token = sign_token(me, load_identity(folder / f"{me}.pem"), ADDRESS, task.digest, time.time())
    writer.write(frame(f"Bearer {token}".encode()))
    return reader, writer


async def listen(
    folder: Path, task: secagg.Task, welcome: Callable[[str, StreamReader, StreamWriter], Any]
) -> asyncio.Server:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    callers = Callers(secagg.load_roster(folder / "roster.json"), ADDRESS, task.digest)

    async def called(reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, EOFError, secagg.ConfigError):
            await welcome(callers.party((await read_frame(reader)).decode("ascii", "replace")), reader, writer)

    listener = await asyncio.start_server(called, ADDRESS, 0, ssl=context)
    # The system chooses the port, and another one after a restart.
    (folder / "port.new").write_text(str(listener.sockets[0].getsockname()[1]))
    (folder / "port.new").replace(folder / "port")
    return listener


class Line:
    """A client's connection to the server, made again whenever it is lost."""

    def __init__(self, folder: Path, me: str, task: secagg.Task, hold: str = "") -> None:
        self.folder, self.me, self.task, self.hold, self.requests = folder, me, task, hold, 0
        self.reader: StreamReader | None = None

    async def receive(self) -> bytes:
        while True:
            try:
                if self.reader is None:
                    self.reader, self.writer = await connect(self.folder, self.me, self.task)
                message = await read_frame(self.reader)
            except (OSError, EOFError):  # the server is down; it will restart and ask again
                self.reader = None
                await asyncio.sleep(0.2)
                continue
            self.requests += 1
            if self.hold == "asked" and self.requests == INPUT_REQUEST:
                wait_to_be_killed(self.me, "is asked for its input")
            return message

    async def send(self, message: bytes) -> None:
        if self.hold == "saved" and self.requests == INPUT_REQUEST:
            wait_to_be_killed(self.me, "has saved its input but not sent it")
        with contextlib.suppress(OSError):  # then the server asks again
            self.writer.write(frame(message))
            await self.writer.drain()


class Lines:
    """The server's connections to its clients."""

    def __init__(self, before_receive: Callable[[], None] = lambda: None) -> None:
        self.before_receive = before_receive
        self.newest: dict[str, bytes] = {}
        self.connected: dict[str, StreamWriter] = {}
        self.inbox: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(len(CLIENTS))

    async def welcome(self, party: str, reader: StreamReader, writer: StreamWriter) -> None:
        self.connected[party] = writer
        try:
            if party in self.newest:
                writer.write(frame(self.newest[party]))  # maybe once more: a client knows what it answered
            while True:
                await self.inbox.put((party, await read_frame(reader)))
        finally:  # the client may come back until the deadline
            if self.connected.get(party) is writer:
                del self.connected[party]

    async def send(self, party: str, message: bytes) -> None:
        self.newest[party] = message
        if party in self.connected:
            # No drain: a slow client must not delay the others, and it has one message to read at a time.
            self.connected[party].write(frame(message))

    async def receive(self, timeout: float) -> tuple[str, bytes]:
        self.before_receive()
        return await asyncio.wait_for(self.inbox.get(), timeout)


# 3. The parties. A process that is killed goes on by the same calls: its folder has what it needs.


async def run_client(folder: Path, me: str, hold: str) -> None:
    task, roster = read_agreement(folder)
    key, update = load_identity(folder / f"{me}.pem"), local_update(me)
    with (
        secagg.PartyFolder(folder / me) as own,
        own.forgetting(own.client(task, me, session=SESSION, identity=key, roster=roster)) as client,
    ):
        line = Line(folder, me, task, hold)
        await secagg.arun_client(client, line, contribute=lambda: client.contribute(update))


async def run_server(folder: Path, deadline: float, hold: str) -> None:
    task, roster = read_agreement(folder)
    deadlines = {phase.round: deadline for phase in task.protocol.phases} | {"AdvertiseKeys": BOOT_SECONDS}
    with (
        secagg.PartyFolder(folder / "server") as own,
        own.forgetting(own.server(task, CLIENTS, session=SESSION, roster=roster)) as server,
    ):

        def may_die() -> None:
            if hold and server.round == secagg.Round.MASKED_INPUT and len(server.pending) == 2:
                wait_to_be_killed("server", "has received three inputs of five")

        listener = await listen(folder, task, (lines := Lines(may_die)).welcome)
        outcome = await secagg.arun_server(server, lines, deadlines=deadlines)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):  # clients hang up when they have read that the session is over
                while lines.connected:
                    await asyncio.sleep(0.05)
        listener.close()
        total = {name: values.tolist() for name, values in outcome.sum.items()}
        print(json.dumps({"survivors": outcome.survivors, "dropped": dict(outcome.dropped), "sum": total}))


# 4. The scenes: start the processes, kill one when it has reached its point, and check the sum.


class Scene(NamedTuple):
    title: str
    victim: str
    hold: str  # the point where the victim waits to be killed
    restarts: bool
    deadline: float  # seconds for a round, in which a process may restart
    survivors: list[str]


SCENES = [
    Scene("a client dies and stays away", "c2", "asked", False, 5, ["c1", "c3", "c4", "c5"]),
    Scene("a client dies and comes back", "c4", "saved", True, 20, CLIENTS),
    Scene("the server dies and comes back", "server", "inputs", True, 20, CLIENTS),
]


def play(scene: Scene, folder: Path) -> dict[str, Any]:
    write_agreement(folder)
    with contextlib.ExitStack() as stack:

        def start(party: str, hold: str) -> Popen[str]:
            command = [sys.executable, __file__, "--play", party, str(folder), str(scene.deadline), hold]
            # In a new session, so that Ctrl-C reaches the parent only, which then ends the others.
            process = Popen(command, stdin=PIPE, stdout=PIPE, text=True, start_new_session=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        running = {party: start(party, scene.hold * (party == scene.victim)) for party in ["server", *CLIENTS]}
        victim = running.pop(scene.victim)
        if output(victim).readline() != "held\n":
            raise RuntimeError(f"{scene.victim} ended before the point where it is killed")
        victim.kill()
        killed = victim.wait()
        log(scene.victim, f"is dead: exit code {killed}")
        if scene.restarts:
            running[scene.victim] = start(scene.victim, "")
        result = json.loads(output(running["server"]).read())
        exits = {party: process.wait() for party, process in sorted(running.items())}
    updates = [local_update(party) for party in scene.survivors]
    expected = {name: np.sum([update[name] for update in updates], axis=0).tolist() for name in updates[0]}
    ended_well = killed == -signal.SIGKILL and not any(exits.values())
    right = ended_well and (result["survivors"], result["sum"]) == (scene.survivors, expected)
    facts = {"scene": scene.title, "victim": scene.victim, "killed": killed, "exit_codes": exits, "right": right}
    return {**facts, **result}


def output(process: Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def play_all(as_json: bool) -> bool:
    results = []
    for number, scene in enumerate(SCENES, 1):
        log(f"Scene {number}", scene.title)
        with tempfile.TemporaryDirectory(prefix="two-processes-") as folder:
            results.append(result := play(scene, Path(folder)))
        if not as_json:
            verdict = "is exact" if result["right"] else f"is WRONG: {result}"
            print(f"Scene {number}: the sum over {', '.join(result['survivors'])} {verdict}", flush=True)
    if as_json:
        print(json.dumps(results))
    return all(result["right"] for result in results)


def log(who: str, what: str) -> None:
    print(f"  {who:8}{what}", file=sys.stderr, flush=True)


def wait_to_be_killed(who: str, why: str) -> NoReturn:
    log(who, why)
    print("held", flush=True)
    while True:
        signal.pause()


def end_with_parent() -> None:
    """End this process when stdin ends, which the parent keeps open as long as it lives."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--play", nargs=4, help=argparse.SUPPRESS)  # for the processes that this script starts
    options = parser.parse_args()
    # Compile the kernels now, before a deadline counts.
    secagg.simulate(make_task(), {party: local_update(party) for party in CLIENTS}, dropouts={"c1": "MaskedInput"})
    if not options.play:
        sys.exit(0 if play_all(options.json) else 1)
    threading.Thread(target=end_with_parent, daemon=True).start()
    party, folder, deadline, hold = options.play
    try:
        if party == "server":
            logging.basicConfig(level=logging.INFO, format="  server  %(message)s")  # a line for each round
            asyncio.run(run_server(Path(folder), float(deadline), hold))
        else:
            asyncio.run(run_client(Path(folder), party, hold))
    except secagg.SecAggError as error:
        sys.exit(f"  {party} leaves the session: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
