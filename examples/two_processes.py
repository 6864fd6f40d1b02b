"""Secure aggregation over real sockets: a server and five clients, each a process of its own.

    python examples/two_processes.py            # three scenes; a few seconds each
    python examples/two_processes.py --json     # the results for machines; the log goes to stderr

A role of this library has no sockets and no clock. This file is one way to provide both: TLS that
authenticates both sides, messages with a length in front, one deadline for each round, and a folder
that outlives the process. Each scene kills a process with SIGKILL in the middle of a session:

1. a client dies when it is asked for its input, and stays away: the sum is opened without it;
2. a client dies after its input was saved and before it was sent: it restarts, and is in the sum;
3. the server dies after three of five inputs: it restarts and asks again, and the sum is the same.

The file has five parts: the agreement, the transport, the client, the server, the scenes.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
import os
import random
import signal
import ssl
import sys
import tempfile
import threading
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from numpy.typing import NDArray

import secagg
from secagg import identity
from secagg.identity import PartyRole
from secagg.keygen import write_identities
from secagg.store import FileLedger, FileStore

CLIENTS = ["c1", "c2", "c3", "c4", "c5"]
SESSION = b"round 1"
INPUT_REQUEST = 3  # the number of the request for the input, after AdvertiseKeys and ShareKeys
BOOT_SECONDS = 30  # for all parties to connect, before the first round's deadline counts
SCENE_SECONDS = 90  # the limit for a whole scene

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
    write_certificates(folder)


def read_agreement(folder: Path) -> tuple[secagg.Task, identity.Roster]:
    return secagg.Task.from_bytes((folder / "task").read_bytes()), secagg.load_roster(folder / "roster.json")


def write_certificates(folder: Path, clients: Sequence[str] = CLIENTS) -> None:
    """Make a certificate authority and a certificate for each party. The authority's key is not kept."""
    ca_name, ca_key = common_name("two processes CA"), ec.generate_private_key(ec.SECP256R1())
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)

    def certify(subject: x509.Name, public: ec.EllipticCurvePublicKey, *extensions: x509.ExtensionType) -> bytes:
        serial = x509.random_serial_number()
        builder = x509.CertificateBuilder(ca_name, subject, public, serial, now - day, now + day)
        for extension in [*extensions, x509.SubjectKeyIdentifier.from_public_key(public), signer]:
            critical = isinstance(extension, x509.BasicConstraints | x509.KeyUsage)
            builder = builder.add_extension(extension, critical)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM)

    sign_certificates = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    authority = x509.BasicConstraints(ca=True, path_length=0), sign_certificates
    (folder / "ca.crt").write_bytes(certify(ca_name, ca_key.public_key(), *authority))
    localhost = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    for party in ["server", *clients]:
        names = localhost if party == "server" else [x509.DNSName(party)]
        use = ExtendedKeyUsageOID.SERVER_AUTH if party == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        leaf = x509.BasicConstraints(ca=False, path_length=None), x509.ExtendedKeyUsage([use])
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = certify(common_name(party), key.public_key(), *leaf, x509.SubjectAlternativeName(names))
        with os.fdopen(os.open(folder / f"{party}.tls", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate)


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


# 2. The transport: TLS 1.3 with a certificate on both sides. A frame is four bytes of length, then a message. An
# empty frame says that the session is over.


def tls(folder: Path, party: str, purpose: ssl.Purpose) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose, cafile=str(folder / "ca.crt"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED  # the server, too, demands a certificate
    context.load_cert_chain(folder / f"{party}.tls")
    return context


def frame(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


async def frames(reader: StreamReader, limit: int) -> AsyncIterator[bytes]:
    """Yield messages of at most ``limit`` bytes until the session is over."""
    while size := int.from_bytes(await reader.readexactly(4), "big"):
        if size > limit:
            raise ConnectionError(f"got a frame of {size} bytes; expected at most {limit}")
        yield await reader.readexactly(size)


# 3. The client. Its state and its ledger are on disk before an answer leaves, so it may die at any point, restart,
# and repeat its answer.


async def run_client(folder: Path, me: str, hold: str | None) -> None:
    task, roster = read_agreement(folder)
    key = identity.load_identity(folder / f"{me}.pem")
    store = FileStore(folder / f"{me}.state", ledger=FileLedger(folder / f"{me}.ledger"))
    client: secagg.Client[Any]
    if saved := store.load():
        client = task.restore_client(saved, identity=key, roster=roster, save=store)
        log(me, "restarts from its saved state")
    else:
        client = task.client(me, identity=key, roster=roster, session=SESSION, save=store)
        client.contribute(local_update(me))

    async def talk(reader: StreamReader, writer: StreamWriter) -> None:
        requests = 0
        async for request in frames(reader, task.protocol.largest_message(task, PartyRole.CLIENT)):
            requests += 1
            if hold == "asked" and requests == INPUT_REQUEST:
                wait_to_be_killed(me, "is asked for its input")
            try:
                reply = client.receive(request)  # saved before it returns
            except secagg.Aborted as aborted:
                log(me, f"leaves: {aborted}")
                return
            if hold == "saved" and requests == INPUT_REQUEST:
                wait_to_be_killed(me, "has saved its input but not sent it")
            if reply is not None:
                writer.write(frame(reply))
                await writer.drain()

    context, pause = tls(folder, me, ssl.Purpose.SERVER_AUTH), 0.05
    while True:
        try:
            port = int((folder / "port").read_text())
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            pause = 0.05
            with contextlib.closing(writer):
                return await talk(reader, writer)
        except (OSError, EOFError):  # the server is down; it will restart and ask again
            await asyncio.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, 1.0)


# 4. The server. It saves its state at the end of each round. After a crash it asks again for the messages that it
# received since then, and gets the same bytes. A client that connects gets the request that it has not answered.


class AggregationServer:
    def __init__(self, folder: Path, deadline: float, hold: str | None) -> None:
        self.task, roster = read_agreement(folder)
        store = FileStore(folder / "server.state")
        self.server: secagg.Server[Any]
        if saved := store.load():
            self.server = self.task.restore_server(saved, roster=roster, save=store)
            log("server", f"restarts from its saved state, in {self.server.round}")
        else:
            self.server = self.task.server(CLIENTS, roster=roster, session=SESSION, save=store)
        self.folder, self.deadline, self.hold = folder, deadline, hold
        self.outbox = self.server.start()
        self.farewells: dict[str, bytes] = {}  # the last message to each client that was dropped
        self.connected: dict[str, StreamWriter] = {}
        self.change = asyncio.Condition()

    async def run(self) -> None:
        context = tls(self.folder, "server", ssl.Purpose.CLIENT_AUTH)
        listener = await asyncio.start_server(self.welcome, "127.0.0.1", 0, ssl=context)
        # The system chooses the port, and another one after a restart.
        (self.folder / "port.new").write_text(str(listener.sockets[0].getsockname()[1]))
        (self.folder / "port.new").replace(self.folder / "port")
        await self.until(lambda: self.server.pending <= self.connected.keys(), BOOT_SECONDS)
        while self.server.outcome is None:
            await self.until(lambda: not self.server.pending, self.deadline)
            late = ", ".join(sorted(self.server.pending))
            log("server", f"{self.server.round}: " + (f"goes on without {late}" if late else "all have answered"))
            try:
                self.outbox = self.server.close_round()
            except secagg.Aborted as aborted:
                await self.end(aborted.outbox)
                raise
            for party, message in self.outbox.items():
                self.send(party, message)
                if party not in self.server.pending:
                    self.farewells[party] = message
        await self.end(dict.fromkeys(self.connected, b""))
        listener.close()
        outcome = self.server.outcome
        total = {name: values.tolist() for name, values in outcome.sum.items()}
        print(json.dumps({"survivors": outcome.survivors, "dropped": dict(outcome.dropped), "sum": total}))

    async def welcome(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one connection. Its certificate says which party it is."""
        party = dict(name for (name,) in writer.get_extra_info("peercert")["subject"])["commonName"]
        self.connected[party] = writer
        try:
            if party in self.server.pending:
                self.send(party, self.outbox[party])
            elif party in self.farewells:
                self.send(party, self.farewells[party])
            await self.notify()
            async for message in frames(reader, self.task.protocol.largest_message(self.task, None)):
                for other, forward in self.server.receive(party, message).items():
                    self.send(other, forward)
                if self.hold and self.server.round == secagg.Round.MASKED_INPUT and len(self.server.pending) == 2:
                    wait_to_be_killed("server", "has received three inputs of five")
                await self.notify()
        except (OSError, EOFError):
            pass  # the client may come back: the server waits until the deadline
        finally:
            if self.connected.get(party) is writer:
                del self.connected[party]
            writer.close()
            await self.notify()

    async def end(self, messages: Mapping[str, bytes]) -> None:
        for party, message in messages.items():
            self.send(party, message)
        await self.until(lambda: not self.connected, self.deadline)  # clients hang up when they have read it

    def send(self, party: str, message: bytes) -> None:
        # No drain: a slow client must not delay the others, and it has one message to read at a time.
        if party in self.connected:
            self.connected[party].write(frame(message))

    async def notify(self) -> None:
        async with self.change:
            self.change.notify_all()

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self.change:
                await self.change.wait_for(condition)


# 5. The scenes: start the processes, kill one when it has reached its point, and check the sum.


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


async def play(scene: Scene, folder: Path) -> dict[str, Any]:
    write_agreement(folder)
    processes: list[Process] = []

    async def start(party: str, hold: str = "") -> Process:
        command = [sys.executable, __file__, "--party", party, "--folder", str(folder), "--hold", hold]
        command += ["--deadline", str(scene.deadline)]
        # In a new session, so that Ctrl-C reaches the parent only, which then ends the others.
        processes.append(await create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, start_new_session=True))
        return processes[-1]

    try:
        async with asyncio.timeout(SCENE_SECONDS):
            running = {p: await start(p, scene.hold if p == scene.victim else "") for p in ["server", *CLIENTS]}
            victim = running.pop(scene.victim)
            if await output(victim).readline() != b"held\n":
                raise RuntimeError(f"{scene.victim} ended before the point where it is killed")
            os.kill(victim.pid, signal.SIGKILL)
            killed = await victim.wait()
            log(scene.victim, f"is dead: exit code {killed}")
            if scene.restarts:
                running[scene.victim] = await start(scene.victim)
            result = json.loads(await output(running["server"]).read())
            exits = {party: await process.wait() for party, process in sorted(running.items())}
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    updates = [local_update(party) for party in scene.survivors]
    expected = {name: np.sum([update[name] for update in updates], axis=0).tolist() for name in updates[0]}
    ended_well = killed == -signal.SIGKILL and not any(exits.values())
    right = ended_well and (result["survivors"], result["sum"]) == (scene.survivors, expected)
    facts = {"scene": scene.title, "victim": scene.victim, "killed": killed, "exit_codes": exits, "right": right}
    return {**facts, **result}


def output(process: Process) -> StreamReader:
    assert process.stdout is not None
    return process.stdout


async def play_all(as_json: bool) -> bool:
    results = []
    for number, scene in enumerate(SCENES, 1):
        log(f"Scene {number}", scene.title)
        with tempfile.TemporaryDirectory(prefix="two-processes-") as folder:
            results.append(await play(scene, Path(folder)))
        result = results[-1]
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
    for name in ("--party", "--folder", "--hold", "--deadline"):  # for the processes that this script starts
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Compile the kernels now, before a deadline counts.
    secagg.simulate(make_task(), {party: local_update(party) for party in CLIENTS}, dropouts={"c1": "MaskedInput"})
    if options.party is None:
        sys.exit(0 if asyncio.run(play_all(options.json)) else 1)
    threading.Thread(target=end_with_parent, daemon=True).start()
    folder = Path(options.folder)
    try:
        if options.party == "server":
            asyncio.run(AggregationServer(folder, float(options.deadline), options.hold).run())
        else:
            asyncio.run(run_client(folder, options.party, options.hold))
    except secagg.SecAggError as error:
        sys.exit(f"  {options.party} leaves the session: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
