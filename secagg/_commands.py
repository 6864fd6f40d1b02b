"""The commands of the console script. Heavy imports are inside the commands that need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from secagg._enrolment_commands import read_task


def show_version() -> None:
    """Print the installed version."""
    try:
        text = f"secagg {version('secagg')}"
    except PackageNotFoundError:
        text = "secagg, from a source tree that is not installed"
    print(text, flush=True)


def demo(
    protocol: Sequence[str] | None,
    task: str,
    clients: int,
    rounds: int,
    dropouts: int | None,
    seed: int,
    epsilon: float | None,
    optimizer: str,
    compression: str | None,
    robust: str | None,
    local_epochs: int | None,
    attack: str | None,
    json: bool,
    plot: Path,
    no_plot: bool,
) -> None:
    """Train one classifier over several clients under each protocol, without sharing their data."""
    from secagg.demo.settings import Settings
    from secagg.demo.show import show
    from secagg.demo.training import usual_dropouts
    from secagg.protocols import chosen

    settings = Settings(
        clients=clients,
        rounds=rounds,
        dropouts=dropouts or 0,
        seed=seed,
        epsilon=epsilon,
        task=task,
        optimizer=optimizer,
        compression=compression,
        robust=robust,
        local_epochs=local_epochs,
        attack=attack,
    )
    protocols = chosen(protocol or [])
    if dropouts is None:
        settings = replace(settings, dropouts=usual_dropouts(settings, protocols.values()))
    show(protocols, settings, as_json=json, plot=None if no_plot else plot)


def serve(settings: Path, loop: str | None) -> None:
    """Run the service that ``settings`` describe."""
    from secagg.service.command import serve

    serve(settings, loop)


def token(ids: Sequence[str], service: Path, out: Path) -> None:
    """Write a join token for each client of a task without identities."""
    from secagg.service.joining import give_tokens

    for path in give_tokens(service, ids, out):
        print(f"{path}: hand it to its client, who keeps it as the file token in the folder of its state")


def backup(folder: Path, out: Path) -> None:
    """Copy a service's folder, while the service runs or not."""
    from secagg.service.upkeep import backup

    backup(folder.expanduser().resolve(), out.expanduser().resolve())
    print(f"{out}: the tasks, the models and the outcomes; no session that runs is in it")


def status(url: str, json: bool, watch: bool) -> None:
    """Show the status document of a running service."""
    from secagg.service.terminal import show_status

    show_status(url, as_json=json, watch=watch)


def describe(task: Path) -> None:
    """Describe a task in words: rounds, bytes, precision, and who would have to collude."""
    print(read_task(task).describe())


def warm(protocol: Sequence[str] | None, task: Sequence[Path] | None, json: bool) -> None:
    """Compile the kernels of protocols and tasks ahead."""
    from secagg._warm_command import warm

    warm(protocol, task, json)
