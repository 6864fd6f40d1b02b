"""The whole deployment on this machine: ``python examples/flower_app/loopback.py [--rounds N] [--spare]``.

Starts a SuperLink and four SuperNodes, each a process, with TLS and node authentication, and submits the app. It
kills the fourth SuperNode when that is asked for its update, unless ``--spare`` is set. The round goes on without
it. Nothing leaves the machine: Flower's telemetry, its update check and its installation of dependencies are off.
At the end, and after an interrupt or a SIGTERM, all processes that were started are ended.
"""

import argparse
import datetime
import ipaddress
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from secagg.keygen import write_identities

APP = Path(__file__).parent
BIN = Path(sys.executable).parent
HOSPITALS = ["hospital-1", "hospital-2", "hospital-3", "hospital-4"]
VICTIM = HOSPITALS[-1]
INPUT_REQUEST = 4  # after Introduction, AdvertiseKeys and ShareKeys
PORTS = range(20_000, 32_000)  # below the ports that Linux uses for outgoing connections
# Enough for a busy machine; a step ends as soon as it is done.
BOOT_SECONDS, ROUND_SECONDS = 300, 300


def write_certificate(folder: Path) -> None:
    """One self-signed certificate for everything on this machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now - day, now + day
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    write_private(folder / "tls.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "tls.pem").write_bytes(certificate.public_bytes(Encoding.PEM))


def write_node_key(folder: Path, hospital: str) -> Path:
    """The key with which a SuperNode proves its identity to the SuperLink; the protocol doesn't rely on it."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    write_private(folder / f"{hospital}.flower", private)
    public = folder / f"{hospital}.flower.pub"
    public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")
    return public


def write_private(path: Path, secret: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)


def free_port() -> int:
    """An unused port, chosen at random so that two deployments are unlikely to take the same one."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Inside the block, a SIGTERM raises KeyboardInterrupt, so that the clean-up runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Deployment:
    """The processes of the deployment: their logs, and how they are ended."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = os.environ | {
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "NO_COLOR": "1",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        self.mark = f"FLWR_HOME={folder / 'flwr'}".encode()  # in the environment of every process started here
        (folder / "flwr").mkdir()
        (folder / "flwr/config.toml").write_text(
            f'[superlink]\ndefault = "loop"\n\n[superlink.loop]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{folder}/tls.pem"\n'
        )

    def start(self, name: str, *command: str) -> None:
        with self.log(name).open("wb") as log:
            self.running[name] = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def wait_for(self, name: str, words: str, times: int = 1, seconds: float = BOOT_SECONDS) -> None:
        end = time.monotonic() + seconds
        while True:
            late = time.monotonic() > end or self.running[name].poll() is not None  # before its log is read
            if self.log(name).read_text(errors="replace").count(words) >= times:
                return
            dead = [
                other for other, process in self.running.items() if other != "run" and process.poll() is not None
            ]
            if late or dead:
                raise RuntimeError(
                    f"{name} did not log {words!r}; processes that ended: {dead or 'none'}\n{self.logs()}"
                )
            time.sleep(0.1)

    def logs(self) -> str:
        """The end of each log."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}"
            for path in sorted(self.folder.glob("*.log"))
        )

    def flwr(self, *command: str) -> None:
        done = subprocess.run(
            [str(BIN / "flwr"), *command],
            env=self.environment,
            cwd=self.folder,
            timeout=BOOT_SECONDS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if done.returncode:
            raise RuntimeError(f"flwr {' '.join(command)}: {done.stdout.decode(errors='replace')}\n{self.logs()}")

    def tls(self) -> list[str]:
        folder = self.folder
        return [
            *("--ssl-ca-certfile", f"{folder}/tls.pem"),
            *("--ssl-certfile", f"{folder}/tls.pem", "--ssl-keyfile", f"{folder}/tls.key"),
        ]

    def kill(self, name: str) -> None:
        """Kill a SuperNode and everything that it started, at once."""
        process = self.running.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        """Kill every process of this deployment, even one that left its group, as Flower's SuperExec does."""
        for name in [*self.running]:
            self.kill(name)
        while pids := self.remaining():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def remaining(self) -> list[int]:
        """The processes of this deployment that still run."""
        pids = []
        for path in Path("/proc").glob("[0-9]*/environ"):  # finds nothing on systems without /proc
            with suppress(OSError):
                if self.mark in path.read_bytes().split(b"\0"):
                    pids.append(int(path.parent.name))
        return pids


def deploy(deployment: Deployment) -> None:
    folder = deployment.folder
    write_certificate(folder)
    write_identities(HOSPITALS, folder)  # the operator enrols the hospitals
    listen = ["--host", "127.0.0.1", "--port", str(deployment.port)]
    quiet = ["--disable-runtime-dependency-installation", "--enable-supernode-auth"]
    deployment.start("superlink", "flower-superlink", *listen, *deployment.tls(), *quiet)
    end = time.monotonic() + BOOT_SECONDS
    while not answers(deployment.port):
        if time.monotonic() > end or deployment.running["superlink"].poll() is not None:
            raise RuntimeError(f"the SuperLink doesn't listen:\n{deployment.logs()}")
        time.sleep(0.1)
    for number, hospital in enumerate(HOSPITALS):
        public = write_node_key(folder, hospital)
        deployment.flwr("supernode", "register", str(public), "loop")
        (folder / hospital).mkdir(mode=0o700)
        config = {
            "partition-id": number,
            "num-partitions": len(HOSPITALS),
            "secagg-id": f'"{hospital}"',
            "secagg-key": f'"{folder}/{hospital}.pem"',
            "secagg-roster": f'"{folder}/roster.json"',
            "secagg-dir": f'"{folder}/{hospital}"',
        }
        deployment.start(
            hospital,
            "flower-supernode",
            *("--superlink", f"127.0.0.1:{deployment.port}", "--root-certificates", f"{folder}/tls.pem"),
            *("--host", "127.0.0.1", "--port", str(free_port()), *deployment.tls()),
            *("--auth-supernode-private-key", f"{folder}/{hospital}.flower"),
            *("--node-config", " ".join(f"{key}={value}" for key, value in config.items())),
        )


def play(folder: Path, rounds: int, spare: bool) -> str:
    """The ServerApp's log, once the run is over."""
    deployment = Deployment(folder)
    with interrupted_by_sigterm():
        try:
            deploy(deployment)
            seconds = f"round-seconds={ROUND_SECONDS}.0 training-seconds={ROUND_SECONDS}.0"
            config = f'rounds={rounds} roster="{folder}/roster.json" {seconds}'
            deployment.start("run", "flwr", "run", str(APP), "loop", "--stream", "--run-config", config)
            if not spare:
                deployment.wait_for(
                    VICTIM, "Receiving: train message", INPUT_REQUEST, INPUT_REQUEST * ROUND_SECONDS
                )
                deployment.kill(VICTIM)
                print(f"killed {VICTIM}, which was asked for its update", file=sys.stderr)
            deployment.wait_for("run", "accuracy", seconds=2 * INPUT_REQUEST * ROUND_SECONDS * rounds)
            return deployment.log("run").read_text(errors="replace")
        finally:
            deployment.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--spare", action="store_true", help="kill nobody")
    parser.add_argument("--folder", type=Path, help="keep keys and logs in this new folder")
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(mode=0o700)
        print(play(options.folder.resolve(), options.rounds, options.spare))
        return
    with tempfile.TemporaryDirectory(prefix="flower-app-") as folder:
        print(play(Path(folder), options.rounds, options.spare))


if __name__ == "__main__":
    main()
