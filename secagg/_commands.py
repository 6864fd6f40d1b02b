"""The commands of the console script. Heavy imports are inside the command that needs them."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from mpc.hpke import Kem
from secagg.errors import ConfigError
from secagg.identity import PartyRole, write_identities
from secagg.protocols import chosen

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Secure aggregation for federated learning: the server sums what it cannot read.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secagg {version('secagg')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
def demo(
    protocol: Annotated[
        list[str] | None, typer.Option(help="Run this protocol only; repeat for more. By default all.")
    ] = None,
    clients: Annotated[int, typer.Option(help="Hospitals.")] = 10,
    rounds: Annotated[int, typer.Option(help="Rounds of training.")] = 20,
    dropouts: Annotated[int, typer.Option(help="Hospitals that fall silent in each round.")] = 2,
    seed: Annotated[int, typer.Option(help="Draws the shards and who falls silent; never a key or a mask.")] = 0,
    epsilon: Annotated[
        float | None, typer.Option(help="Train once more, under distributed differential privacy of so much.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to stdout.")] = False,
    plot: Annotated[Path, typer.Option(help="Where the picture (PNG) goes.")] = Path("demo.png"),
    no_plot: Annotated[bool, typer.Option("--no-plot", help="Draw no picture.")] = False,
) -> None:
    """Train one classifier over hospitals that share no patient, under each protocol."""
    from rich.console import Console

    from secagg.demo.plot import draw
    from secagg.demo.table import to_json, to_table
    from secagg.demo.training import Settings, run

    protocols = chosen(protocol or [])
    settings = Settings(clients, rounds, dropouts, seed, epsilon)
    if not no_plot:
        _check_writable(plot)
    with _progress_bar((len(protocols) + (epsilon is not None)) * rounds, hidden=as_json) as advance:
        result = run(settings, protocols, advance)
    if as_json:
        typer.echo(json.dumps(to_json(result), indent=2))
    else:
        Console().print(to_table(result))
    if not no_plot:
        draw(result, plot)
        typer.echo(f"Picture: {plot}", err=as_json)


@app.command()
def keygen(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The parties to enrol.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path(),
    role: Annotated[PartyRole, typer.Option(help="What they do.")] = PartyRole.CLIENT,
    kem: Annotated[Kem, typer.Option(help="What is sealed to aggregators by.")] = Kem.MLKEM768_X25519,
    paillier: Annotated[int, typer.Option(metavar="BITS", help="A Paillier key for a decryptor: 3072.")] = 0,
    shared_he: Annotated[
        bool, typer.Option("--shared-he", help="One key for the decryptor and all clients: CKKS/clients.")
    ] = False,
) -> None:
    """Write a private key for each ID, and add them all to the roster in the same folder."""
    try:
        roster = write_identities(ids, out, role, kem=kem, paillier=paillier, shared_he=shared_he)
    except OSError as error:
        raise ConfigError(f"got --out {out}: {error.strerror}; choose a folder that can be written") from error
    for party in ids:
        typer.echo(f"{out / party}.pem: private key of {party}; it stays with its owner")
        if role is PartyRole.AGGREGATOR:
            typer.echo(f"{out / party}.sealing.json: private sealing key of {party}; it stays with its owner")
        if paillier:
            typer.echo(f"{out / party}.he.json: private Paillier key of {party}; it stays with its owner")
    if shared_he:
        typer.echo(f"{out / 'shared.he.json'}: secret key for {ids[0]} and every client, and for nobody else")
    typer.echo(f"{roster}: public keys of everyone enrolled; every party needs this one file")


@app.command()
def describe(
    taskfile: Annotated[Path, typer.Argument(help="A file with the bytes of task.to_bytes().")],
) -> None:
    """Say in words what a task means: rounds, bytes, precision, who would have to collude."""
    from secagg.task import Task

    try:
        data = taskfile.read_bytes()
    except OSError as error:
        raise ConfigError(f"got no task at {taskfile}: {error.strerror}") from error
    typer.echo(Task.from_bytes(data).describe())


def _check_writable(plot: Path) -> None:
    where = plot if plot.exists() else plot.absolute().parent
    if plot.is_dir() or not where.exists() or not os.access(where, os.W_OK):
        raise ConfigError(f"got --plot {plot}, which can't be written; name a file in a folder that exists")


@contextmanager
def _progress_bar(total: int, *, hidden: bool) -> Iterator[Callable[[str], None]]:
    """A bar on stderr while a terminal watches; yields what moves it on, called with a protocol's name."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    hidden = hidden or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, transient=True) as progress:
        bar = progress.add_task("training", total=total)
        yield lambda name: progress.update(bar, advance=1, description=f"training under {name}")
