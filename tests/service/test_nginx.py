"""The service behind nginx, with the configuration that docs/operations_limits.md shows."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

import secagg
from docs.service_tables import LIMITS
from secagg.api import routes
from secagg.api.problems import Kind, Problem
from secagg.api.tokens import sign_token
from secagg.service import Schedule, Service
from secagg.testing import parties_for
from tests.remote.playing import MODEL, kit_for, options_for, update_of
from tests.service.certificates import trusting, write_certificate
from tests.service.serving import free_port
from tests.service.test_service_tables import block

pytestmark = pytest.mark.stacks

PARTIES = parties_for(secagg.SecAgg(), 3).enrolled()
TASK = PARTIES.task


@contextlib.contextmanager
def nginx(folder: Path, port: int, behind: int) -> Iterator[Path]:
    """nginx before the service on the port ``behind``; yields the certificate to trust."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        pytest.skip("no nginx: apt-get install nginx-light")
    certificate, key = write_certificate(folder)
    server = block(LIMITS, "nginx")
    for written, here in (
        ("443 ssl", f"127.0.0.1:{port} ssl"),
        ("agg.example.org", "localhost"),
        ("/etc/secagg/server.crt", str(certificate)),
        ("/etc/secagg/server.key", str(key)),
        ("127.0.0.1:8443", f"127.0.0.1:{behind}"),
    ):
        assert server.count(written) == 1
        server = server.replace(written, here)
    paths = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}{server}}}\n"
    )
    command = [binary, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert process.poll() is None, process.stderr and process.stderr.read()
                time.sleep(0.05)
            yield certificate
        finally:
            process.terminate()
            process.communicate(timeout=10)


@contextlib.contextmanager
def behind_nginx(folder: Path) -> Iterator[tuple[Service, Path]]:
    front, back = free_port(), free_port()
    service = Service(
        folder / "service",
        url=f"https://localhost:{front}",
        listen=("127.0.0.1", back),
        tls="proxy",
        status=None,
    )
    service.add(TASK, roster=PARTIES.roster, schedule=Schedule(gather=30.0, deadline=30.0, training=30.0))
    with nginx(folder, front, back) as certificate, service:
        yield service, certificate


def test_a_round_passes_through_nginx(tmp_path: Path) -> None:
    def train(party: str) -> None:
        kit = replace(kit_for(PARTIES, party, service.url), ca=certificate.read_text())
        with secagg.connect(kit, tmp_path / party, **options_for(PARTIES, party)) as remote:
            for offer in remote.offers():
                offer.model(like=MODEL)
                offer.contribute(update_of(PARTIES, party), weight=9)
                return

    with behind_nginx(tmp_path) as (service, certificate), ThreadPoolExecutor(8) as pool:
        outcome = pool.submit(service.round, MODEL)
        clients = [pool.submit(train, party) for party in PARTIES.cohort]
        for client in clients:
            client.result(60)
        assert set(outcome.result(60).survivors) == set(PARTIES.cohort)


def test_polls_uploads_and_refusals_pass_through_nginx(tmp_path: Path) -> None:
    with behind_nginx(tmp_path) as (service, certificate):
        party = PARTIES.cohort[0]
        token = sign_token(party, PARTIES.identities[party], service.url, TASK.digest, time.time())
        values = {"task": TASK.digest.hex(), "party": party, "session": "0" * 64, "digest": "1" * 64}
        signed = {"Authorization": f"Bearer {token}"}

        def ask(name: str, query: str = "", **keywords: Any) -> httpx2.Response:
            """On a connection of its own: nginx ends one whose upload was refused."""
            route = routes.BY_NAME[name]
            url = service.url + route.url(**values) + query
            return httpx2.request(route.method, url, verify=trusting(certificate), trust_env=False, **keywords)

        def refused(name: str, **keywords: Any) -> Kind:
            answer = ask(name, **keywords)
            return Problem.of(answer.status_code, answer.headers, answer.content).kind

        began = time.monotonic()
        assert ask("next", "?wait=3", headers=signed).status_code == 204
        assert time.monotonic() - began > 2.5  # it waited, and nginx let it
        # The answer comes before the body is read, and reaches a client that still writes.
        assert refused("upload", content=bytes(4 << 20)) is Kind.UNAUTHORIZED
        assert refused("upload", content=bytes(4 << 20), headers=signed) is Kind.SESSION_OVER
        assert refused("upload", content=bytes(9 << 20), headers=signed) is Kind.TOO_LARGE  # a page of nginx's own
        assert json.loads(ask("tasks").content) == [TASK.digest.hex()]
