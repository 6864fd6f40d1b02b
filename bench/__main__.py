"""``python -m bench``. It needs the extra ``secagg[demo]``, and ``secagg[he]`` for the homomorphic protocols."""

import sys

_EXTRA = ("typer", "rich", "matplotlib", "scipy")
_INSTALL = "pip install 'secagg[demo]', or pip install scikit-learn matplotlib typer rich"


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit: 0, 1 if the run failed, 2 if the request is not possible, 130 if interrupted."""
    try:
        _run(arguments)
    except KeyboardInterrupt:
        _fail("interrupted before anything was measured", 130)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        _fail(f"the package {package}, which this command needs, is not installed: {_INSTALL}", 1)


def _run(arguments: list[str] | None) -> None:
    from bench.commands import app
    from bench.measure import WrongSum
    from secagg.errors import ConfigError, SecAggError

    try:
        app(args=arguments, prog_name="python -m bench")
    except WrongSum as wrong:
        _fail(f"FAILED: {wrong}", 1)
    except SecAggError as error:
        _fail(str(error), 2 if isinstance(error, ConfigError) else 1)


def _fail(message: str, code: int) -> None:
    print(f"bench: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
