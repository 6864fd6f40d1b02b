"""Provision a server and sites, start them on the loopback, and play a job.

``python -m tests.flare.deploy MODULE:FUNCTION FOLDER JSON``. Each participant has certificates of its own and is a
process, as in production; each job is a process of its site. The option ``privacy`` has the content of
``local/privacy.json`` for some sites. Ports are chosen at random.
"""

import contextlib
import importlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
from nvflare.lighter.provision import gen_default_project_config
from nvflare.tool.poc.poc_commands import get_prod_dir, prepare_poc_provision

PORTS = range(20_000, 32_000)  # below the ports that Linux uses for outgoing connections
ADMIN = "admin@nvidia.com"
SECONDS = 200


def free_port() -> int:
    """An unused port, chosen at random so that two deployments are unlikely to take the same one."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def provision(folder: Path, sites: list[str]) -> Path:
    """Write a startup kit for each participant; returns the folder that holds them."""
    import yaml

    project = folder / "project.yml"
    gen_default_project_config("dummy_project.yml", project)
    settings = yaml.safe_load(project.read_text())
    server, *_ = (entry for entry in settings["participants"] if entry["type"] == "server")
    server |= {
        "name": "server",
        "fed_learn_port": free_port(),
        "admin_port": free_port(),
        "default_host": "localhost",
    }
    admins = [entry for entry in settings["participants"] if entry["type"] == "admin"]
    clients = [{"name": site, "type": "client", "org": "nvidia"} for site in sites]
    settings["participants"] = [server, *clients, *admins]
    project.write_text(yaml.safe_dump(settings))
    prepare_poc_provision(sites, len(sites), str(folder / "poc"), "", project_conf_path=str(project))
    return Path(get_prod_dir(str(folder / "poc"), settings["name"]))


def start(kit: Path, kind: str, *settings: str) -> None:
    """Start a participant, as its ``startup/sub_start.sh`` does, but without its five seconds of sleep."""
    with (kit / "process.log").open("wb") as log:
        module = f"nvflare.private.fed.app.{kind}.{kind}_train"
        common = ["--set", "secure_train=true", "org=nvidia", "config_folder=config", *settings]
        command = [sys.executable, "-u", "-m", module, "-m", str(kit), "-s", f"fed_{kind}.json", *common]
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=kit)


def connect(kits: Path, sites: list[str]) -> Session:
    """A session of the administrator, once all sites have joined."""
    end = time.monotonic() + SECONDS
    while True:
        with contextlib.suppress(Exception):
            session = new_secure_session(ADMIN, str(kits / ADMIN), timeout=2.0)
            while len(session.get_connected_client_list()) < len(sites):
                time.sleep(0.2)
            return session
        if time.monotonic() > end:
            raise RuntimeError("the administrator could not log in")
        time.sleep(0.2)


def play(
    folder: Path, maker: str, sites: list[str], privacy: dict[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    """The job's meta, once it has ended; what the server keeps of it is then in the folder ``result``."""
    kits = provision(folder, sites)
    for site, content in privacy.items():
        (kits / site / "local" / "privacy.json").write_text(json.dumps(content))
    start(kits / "server", "server")
    for site in sites:
        start(kits / site, "client", f"uid={site}")
    module, _, function = maker.partition(":")
    recipe = getattr(importlib.import_module(module), function)(folder, sites=len(sites), **options)
    recipe.export(str(folder / "job"))
    session = connect(kits, sites)
    job = session.submit_job(str(next((folder / "job").iterdir())))
    meta: dict[str, Any] = session.wait_for_job(job, timeout=SECONDS, poll_interval=0.5)
    Path(session.download_job_result(job, str(folder))).rename(folder / "result")
    return meta


def main() -> None:
    maker, folder, text = sys.argv[1:]
    options = json.loads(text)
    sites = [f"site-{number}" for number in range(1, options.pop("sites") + 1)]
    meta = play(Path(folder), maker, sites, options.pop("privacy", {}), options)
    print(json.dumps(meta, default=str), flush=True)
    os._exit(0)  # a session's threads would keep this process; the harness ends the others


if __name__ == "__main__":
    main()
