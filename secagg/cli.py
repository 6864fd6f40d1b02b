"""The console script: ``secagg demo``, ``secagg keygen``, ``secagg describe``."""

import sys
from collections.abc import Sequence

from secagg.errors import ConfigError, SecAggError

_EXTRA = ("typer", "rich", "sklearn", "matplotlib")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command (by default the one of ``sys.argv``), and exit.

    The exit code is 0, 1 if the command failed, 2 if what was asked can't be done. An error is one
    line on stderr.
    """
    try:
        from secagg._commands import app

        app(args=None if arguments is None else list(arguments), prog_name="secagg")
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        _fail(f"got no {package}, which this command needs: pip install 'secagg[demo]'", 1)
    except SecAggError as error:
        _fail(str(error), 2 if isinstance(error, ConfigError) else 1)


def _fail(message: str, code: int) -> None:
    print(f"secagg: {message}", file=sys.stderr)
    raise SystemExit(code)
