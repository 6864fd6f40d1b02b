"""``python -m bench``. It needs the extra ``secagg[demo]``; docs/benchmarks.md says which commands need others."""

import sys

_INSTALL = {
    **dict.fromkeys(
        ("typer", "rich", "matplotlib", "scipy"),
        "pip install 'secagg[demo]', or pip install scikit-learn matplotlib typer rich",
    ),
    **dict.fromkeys(
        ("jwt", "starlette", "uvicorn", "httptools", "sqlalchemy", "alembic", "prometheus_client", "structlog"),
        "pip install 'secagg[service]', or pip install pyjwt starlette uvicorn uvloop httptools sqlalchemy alembic prometheus-client structlog rich",  # noqa: E501 - a test looks for it in one piece
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit: 0, 1 if the run failed, 2 if the request is not possible, 130 if interrupted."""
    try:
        _run(arguments)
    except KeyboardInterrupt:
        _fail("interrupted before anything was measured", 130)
    except ModuleNotFoundError as missing:
        package = (missing.name or "").partition(".")[0]
        if package not in _INSTALL:
            raise
        _fail(f"the package {package}, which this command needs, is not installed: {_INSTALL[package]}", 1)


def _run(arguments: list[str] | None) -> None:
    from bench.commands import app
    from bench.measure import WrongSum
    from mpc import MPCError
    from secagg.errors import ConfigError, SecAggError

    try:
        app(args=arguments, prog_name="python -m bench")
    except WrongSum as wrong:
        _fail(f"FAILED: {wrong}", 1)
    except SecAggError as error:
        _fail(str(error), 2 if isinstance(error, ConfigError) else 1)
    except MPCError as error:  # SECAGG_KERNEL names a kernel that is not here, and no task was made that says so
        _fail(str(error), 2)


def _fail(message: str, code: int) -> None:
    print(f"bench: {message}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
