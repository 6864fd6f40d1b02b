# PYTHON_ARGCOMPLETE_OK
"""The console script: the commands and their options.

All commands but the demo and the tables of ``status`` need the library's own dependencies only.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mpc.hpke import Kem
from secagg import _commands, _enrolment_commands, _remote_commands
from secagg.errors import ConfigError, SecAggError
from secagg.identity import AUTHS, PartyRole

_SERVICE = "pip install 'secagg[service]', or pip install pyjwt starlette uvicorn uvloop httptools sqlalchemy alembic prometheus-client structlog rich"  # noqa: E501 - a test looks for it in one piece
#: What to install for a package that a command imports. What the client imports has an error of its own.
_INSTALL = {
    **dict.fromkeys(
        ("rich", "sklearn", "matplotlib"),
        "pip install 'secagg[demo]', or pip install scikit-learn matplotlib typer rich",
    ),
    **dict.fromkeys(
        (
            *("jwt", "starlette", "uvicorn", "uvloop", "httptools"),
            *("sqlalchemy", "alembic", "prometheus_client", "structlog"),
        ),
        _SERVICE,
    ),
}
_INTERRUPTED = 130  # as shells have it: 128 and the number of the signal


class _Parser(argparse.ArgumentParser):
    """Reports an error in the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"secagg: {message}; see {self.prog} --help\n")


class _Version(argparse.Action):
    """Prints the version, which is looked up only for this option."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        _commands.show_version()
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = _Parser(
        prog="secagg",
        description="Secure aggregation for federated learning: the server sums what it cannot read.",
        allow_abbrev=False,
    )
    top.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        dest=argparse.SUPPRESS,
        default=argparse.SUPPRESS,
        help="print the version and exit",
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _demo(_command(commands, "demo", "train one model over clients that keep their data"))
    _keygen(_command(commands, "keygen", "write a private key for each ID and its request to be enrolled"))
    roster = _command(commands, "roster", "build, sign, list or merge rosters: the files that say who is enrolled")
    actions = roster.add_subparsers(metavar="ACTION", required=True)
    _roster_build(_command(actions, "build", "write the roster of everyone whose request is right"))
    _roster_sign(_command(actions, "sign", "sign a roster by the registrar's private key"))
    _roster_verify(_command(actions, "verify", "check a roster's signature by the registrar's public key"))
    _roster_list(_command(actions, "list", "print the parties, fingerprints of their keys, and the digest"))
    _roster_merge(_command(actions, "merge", "write one roster of all parties in several rosters"))
    _kit(_command(commands, "kit", "write what a party pins before it talks to a service; no secret is in it"))
    _tls(_command(commands, "tls", "make a certificate for a server that has none"))
    served = _command(commands, "serve", "run sessions over HTTPS, with a training loop")
    served.add_argument("settings", type=Path, nargs="?", default=Path("service.toml"), metavar="FILE", help="the "
        "service's settings (default: service.toml)")  # fmt: skip
    served.add_argument("--loop", metavar="MODULE:FUNCTION", help="a function that gets the service and calls its "
        "round(model); by default the mean of each round is added to the model of the settings")  # fmt: skip
    served.set_defaults(run=_commands.serve)
    given = _command(commands, "token", "write a join token for each client of a task without identities")
    given.add_argument("ids", nargs="+", metavar="ID", help="the clients")
    given.add_argument("--service", type=Path, default=Path("service.toml"), metavar="FILE", help="the service's "
        "settings (default: service.toml)")  # fmt: skip
    given.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="the folder to write "
        "to (default: this one)")  # fmt: skip
    given.set_defaults(run=_commands.token)
    _backup(_command(commands, "backup", "copy a service's folder, while the service runs or not"))
    _status(_command(commands, "status", "show what a running service does: sessions, faults, privacy spent"))
    _member(_command(commands, "member", "answer a service as an aggregator, a decryptor or a committee member"))
    _client(_command(commands, "client", "train with a function of your own in each round of a service"))
    described = _command(commands, "describe", "describe a task in words: rounds, bytes, collusion")
    described.add_argument("task", type=Path, metavar="TASKFILE", help="a file with the bytes of task.to_bytes()")
    described.set_defaults(run=_commands.describe)
    _warm(_command(commands, "warm", "compile the kernels ahead, such as for an image"))
    return top


def _command(among: argparse._SubParsersAction[_Parser], name: str, does: str) -> _Parser:
    return among.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".", allow_abbrev=False)


def _demo(command: _Parser) -> None:
    add = command.add_argument
    add("--protocol", action="append", metavar="NAME", help="this protocol only; repeat for more (default: all)")
    add("--task", default="hospitals", metavar="NAME", help="what is trained: hospitals, a regression over "
        "patients, or digits, a network for handwriting (default: hospitals)")  # fmt: skip
    add("--clients", type=int, default=10, metavar="N", help="hospitals, or clients with digits (default: 10)")
    add("--rounds", type=int, default=20, metavar="N", help="rounds of training (default: 20)")
    add("--local-epochs", type=int, metavar="N", help="passes of a client over its data in each round (default: 5 "
        "over patients, 2 over digits)")  # fmt: skip
    add("--dropouts", type=int, metavar="N", help="clients that fall silent in each round (default: 2, or fewer "
        "if the protocols can't lose two)")  # fmt: skip
    add("--seed", type=int, default=0, help="decides the shards and which clients fall silent or attack, never a "
        "key or a mask")  # fmt: skip
    add("--optimizer", default="fedavg", metavar="NAME", help="fedavg, fedprox, fedavgm, fedadagrad, fedadam or "
        "fedyogi (default: fedavg)")  # fmt: skip
    add("--compression", metavar="NAME", help="send a tenth of the coordinates: random-k, count-sketch, "
        "public-mask or pruned")  # fmt: skip
    add("--attack", metavar="NAME", help="every tenth client attacks: sign-flip sends -1 times its update, scale "
        "-10 times")  # fmt: skip
    add("--robust", metavar="NAME", help="sum in groups and combine their means by median, trimmed-mean, "
        "geometric-median or norm-clipped-mean")  # fmt: skip
    add("--epsilon", type=float, help="train once more, with distributed differential privacy of this epsilon")
    add("--json", action="store_true", help="print JSON, and nothing else, to stdout")
    add("--plot", type=Path, default=Path("demo.png"), metavar="FILE",
        help="where the picture goes: a name in .png, .svg or .pdf (default: demo.png)")  # fmt: skip
    add("--no-plot", action="store_true", help="draw no picture")
    command.set_defaults(run=_commands.demo)


def _warm(command: _Parser) -> None:
    add = command.add_argument
    add("--protocol", action="append", metavar="NAME", help="this protocol only; repeat for more (default: all, or "
        "none if there are tasks)")  # fmt: skip
    add("--task", action="append", type=Path, metavar="FILE", help="the bytes of task.to_bytes(): the kernels of "
        "this task; repeat for more")  # fmt: skip
    add("--json", action="store_true", help="print JSON, and nothing else, to stdout")
    command.set_defaults(run=_commands.warm)


def _keygen(command: _Parser) -> None:
    add = command.add_argument
    add("ids", nargs="+", metavar="ID", help="the parties, or with --registrar the registrar's name")
    add("--out", type=Path, default=Path(), metavar="FOLDER", help="the folder to write to (default: this one)")
    add("--role", choices=[*map(str, PartyRole)], default=str(PartyRole.CLIENT), help="what they do "
        "(default: client)")  # fmt: skip
    add("--kem", choices=[*map(str, Kem)], default=str(Kem.MLKEM768_X25519), help="how clients seal to an "
        "aggregator (default: %(default)s)")  # fmt: skip
    add("--paillier", type=int, default=0, metavar="BITS", help="a decryptor's key for Paillier(key='run'); "
        "3072 is the protocol's default")  # fmt: skip
    add("--shared-he", action="store_true", help="one key for the decryptor and all clients, for BFV and CKKS "
        "with holder='clients'")  # fmt: skip
    add("--registrar", action="store_true", help="a key to sign rosters with, for somebody who is no party")
    command.set_defaults(run=_enrolment_commands.keygen)


def _roster_build(command: _Parser) -> None:
    add = command.add_argument
    add("requests", type=Path, nargs="*", metavar="FILE", help="requests to be enrolled: c1.enrol c2.enrol")
    add("--extend", type=Path, metavar="ROSTER", help="begin with the parties of this roster")
    add("--replace", action="append", default=[], metavar="ID", help="this party gets the new key of its request")
    add("--remove", action="append", default=[], metavar="ID", help="this party is no longer enrolled")
    add("--out", type=Path, default=Path("roster.json"), metavar="FILE", help="where the roster goes: a new file, "
        "or the one that is extended (default: roster.json)")  # fmt: skip
    command.set_defaults(run=_enrolment_commands.roster_build)


def _roster_sign(command: _Parser) -> None:
    add = command.add_argument
    add("roster", type=Path, metavar="FILE", help="the roster")
    add(
        "--key", type=Path, required=True, metavar="FILE", help="the registrar's private key, such as registrar.pem"
    )
    add("--version", type=int, metavar="N", help="higher than any before (default: the next)")
    add("--expires", type=float, default=90, metavar="DAYS", help="for how long clients accept it (default: 90)")
    add("--out", type=Path, metavar="FILE", help="where the signature goes (default: roster.sig for roster.json)")
    command.set_defaults(run=_enrolment_commands.roster_sign)


def _roster_verify(command: _Parser) -> None:
    add = command.add_argument
    add("roster", type=Path, metavar="FILE", help="the roster")
    add("--registrar", type=Path, required=True, metavar="FILE", help="the registrar's public key: registrar.pub")
    add("--signature", type=Path, metavar="FILE", help="the signature (default: roster.sig for roster.json)")
    command.set_defaults(run=_enrolment_commands.roster_verify)


def _kit(command: _Parser) -> None:
    add = command.add_argument
    add("ids", nargs="*", metavar="ID", help="the parties; none with --auth open or --show")
    add("--task", type=Path, metavar="FILE", help="the bytes of task.to_bytes()")
    add("--url", metavar="URL", help="the service's address")
    add("--registrar", type=Path, metavar="FILE", help="the registrar's public key: registrar.pub")
    add("--roster-digest", metavar="HEX", help="the one roster to accept, as secagg roster list prints it")
    add("--trust", choices=["semi-honest"], help="take the roster on the server's word")
    add("--ca", type=Path, metavar="FILE", help="certificates to trust (default: those of the system)")
    add("--role", choices=[*map(str, PartyRole)], help="what the party does (default: as the service's roster "
        "says, or client)")  # fmt: skip
    add("--auth", choices=[*AUTHS], help="how a party shows who it is (default: roster)")
    add("--service", type=Path, metavar="FILE", help="the service's settings, for what is not said here (default: "
        "service.toml, if it is there)")  # fmt: skip
    add("--out", type=Path, metavar="PATH", help="where the kit goes; a folder for several (default: ID.kit)")
    add("--show", type=Path, metavar="FILE", help="show this kit and its fingerprint, and write nothing")
    command.set_defaults(run=_kit_command)


def _kit_command(**options: Any) -> None:
    from secagg._kit_command import kit

    kit(**options)


def _tls(command: _Parser) -> None:
    add = command.add_argument
    add("names", nargs="+", metavar="NAME", help="host names and IP addresses of the server")
    add("--out", type=Path, default=Path("tls"), metavar="FOLDER", help="the folder to write to (default: tls)")
    add("--days", type=int, default=365, metavar="N", help="for how long they are valid (default: 365)")
    command.set_defaults(run=_enrolment_commands.tls)


def _backup(command: _Parser) -> None:
    command.add_argument("folder", type=Path, metavar="FOLDER", help="the folder of the service's settings")
    command.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    command.set_defaults(run=_commands.backup)


def _status(command: _Parser) -> None:
    add = command.add_argument
    add(
        "--url", default="http://127.0.0.1:8081", help="the service's listener for operators (default: %(default)s)"
    )
    add("--json", action="store_true", help="print JSON, and nothing else, to stdout")
    add("--watch", action="store_true", help="print it once a second, until interrupted")
    command.set_defaults(run=_commands.status)


def _roster_list(command: _Parser) -> None:
    command.add_argument("roster", type=Path, nargs="?", default=Path("roster.json"), metavar="FILE",
                         help="a roster (default: roster.json)")  # fmt: skip
    command.add_argument("--json", action="store_true", help="print JSON, and nothing else, to stdout")
    command.set_defaults(run=_enrolment_commands.roster_list)


def _roster_merge(command: _Parser) -> None:
    command.add_argument("rosters", type=Path, nargs="+", metavar="FILE", help="rosters, such as each party's own")
    command.add_argument("--out", type=Path, default=Path("roster.json"), metavar="FILE",
                         help="where the merged roster goes: a new file, or one of those merged "
                         "(default: roster.json)")  # fmt: skip
    command.set_defaults(run=_enrolment_commands.roster_merge)


def _connection(command: _Parser) -> None:
    add = command.add_argument
    add("--kit", type=Path, required=True, metavar="FILE", help="what the party pins, as secagg kit writes it")
    add("--state", type=Path, required=True, metavar="FOLDER", help="the party's folder: its keys, its ledger and "
        "its open sessions")  # fmt: skip
    add("--once", action="store_true", help="exit when there is nothing to do now, such as for a timer")


def _member(command: _Parser) -> None:
    _connection(command)
    command.set_defaults(run=_remote_commands.member)


def _client(command: _Parser) -> None:
    _connection(command)
    add = command.add_argument
    add("--train", required=True, metavar="MODULE:FUNCTION", help="gets the model and the round's config; returns "
        "the update, or the update and its weight")  # fmt: skip
    add("--wait", type=float, metavar="SECONDS", help="how long the service may hold a poll back; 0 polls once a "
        "minute (default: 25)")  # fmt: skip
    command.set_defaults(run=_remote_commands.client)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command (by default that of ``sys.argv``), and exit.

    The exit code is 0 on success, 1 if the command failed, 2 if its arguments can't work, and 130 if it was
    interrupted. An error is one line on stderr.
    """
    top = parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(top)
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words:
        top.print_help(sys.stderr)
        raise SystemExit(2)
    try:
        options = vars(top.parse_args(words))
        options.pop("run")(**options)
        sys.stdout.flush()  # so that a full disk is noticed while it can be reported
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in _INSTALL:
            raise
        _fail(f"got no {package}, which this command needs: {_INSTALL[package]}", 1)
    except SecAggError as error:
        _fail(str(error), 2 if isinstance(error, ConfigError) else 1)
    except BrokenPipeError:
        # The reader has closed our output. Without this, Python would report it again as it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        _fail(f"got a system error: {error}", 1)
    except KeyboardInterrupt:
        _fail("interrupted", _INTERRUPTED)
    raise SystemExit(0)


def _complete(top: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, and exit. The shell asks only where argcomplete is installed."""
    import argcomplete

    argcomplete.autocomplete(top)


def _fail(message: str, code: int) -> NoReturn:
    print(f"secagg: {message}", file=sys.stderr)
    raise SystemExit(code)
