"""Provision a server and sites, start them on the loopback, and play jobs.

``python -m tests.flare.deploy MODULE:FUNCTION,... FOLDER JSON``. Each participant has certificates of its own and
is a process, as in production; each job is a process of its site. The option ``privacy`` has the content of
``local/privacy.json`` for some sites.
"""

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
from nvflare.lighter.provision import gen_default_project_config
from nvflare.tool.poc.poc_commands import get_prod_dir, prepare_poc_provision

from tests.flare.document import block
from tests.flare.ports import reserve

ADMIN = "admin@nvidia.com"
SECONDS = 200


def provision(folder: Path, sites: list[str]) -> Path:
    """Write a startup kit for each participant; returns the folder that holds them."""
    import yaml

    project = folder / "project.yml"
    gen_default_project_config("dummy_project.yml", project)
    settings = yaml.safe_load(project.read_text())
    server, *_ = (entry for entry in settings["participants"] if entry["type"] == "server")
    port, admin_port = reserve(2)
    server |= {"name": "server", "fed_learn_port": port, "admin_port": admin_port, "default_host": "localhost"}
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
    log, end = kits / "server" / "log.txt", time.monotonic() + SECONDS
    while not (log.exists() and f"Total clients: {len(sites)}" in log.read_text(errors="replace")):
        if time.monotonic() > end:
            raise RuntimeError("not all sites have joined")
        time.sleep(0.2)
    return new_secure_session(ADMIN, str(kits / ADMIN), timeout=60.0)


def play(
    folder: Path, makers: list[str], sites: list[str], privacy: dict[str, Any], options: dict[str, Any]
) -> None:
    """Play a job after the other; what the server keeps of each is then in the folder ``results``."""
    recipes = [load(maker)(folder, sites=len(sites), **options) for maker in makers]
    kits = provision(folder, sites)
    for site in sites:
        local = kits / site / "local"
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(folder / "sites" / f"{site}.json", local / "secagg.json")
        (local / "secagg__p_resources.json").write_text(block("json", "NoShell"))
        if site in privacy:
            (local / "privacy.json").write_text(json.dumps(privacy[site]))
    start(kits / "server", "server")
    for site in sites:
        start(kits / site, "client", f"uid={site}")
    session = connect(kits, sites)
    for number, recipe in enumerate(recipes):
        recipe.export(str(folder / "jobs" / str(number)))
        job = session.submit_job(str(next((folder / "jobs" / str(number)).iterdir())))
        meta = session.wait_for_job(job, timeout=SECONDS, poll_interval=0.5)
        print(meta["status"], flush=True)
        (folder / "results").mkdir(exist_ok=True)
        Path(session.download_job_result(job, str(folder))).rename(folder / "results" / str(number))


def load(maker: str) -> Any:
    """The function that makes a recipe, from its name."""
    module, _, function = maker.partition(":")
    return getattr(importlib.import_module(module), function)


def main() -> None:
    makers, folder, text = sys.argv[1:]
    options = json.loads(text)
    sites = [f"site-{number}" for number in range(1, options.pop("sites") + 1)]
    play(Path(folder), makers.split(","), sites, options.pop("privacy", {}), options)
    os._exit(0)  # a session's threads would keep this process; the harness ends the others


if __name__ == "__main__":
    main()
