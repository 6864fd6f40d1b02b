"""The command ``secagg demo``: trains, prints and draws."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from secagg.demo.screen import progress, tables
from secagg.demo.settings import Settings
from secagg.demo.training import run
from secagg.errors import ConfigError
from secagg.protocols.base import AggregationProtocol

KINDS = (".png", ".svg", ".pdf")
WIDTH = 80


def show(
    protocols: Mapping[str, AggregationProtocol], settings: Settings, *, as_json: bool, plot: Path | None
) -> None:
    """Train under each of ``protocols``, print a table or JSON, and draw to ``plot`` unless it is None.

    Raises ``ConfigError`` before any training if the settings or the file can't work.
    """
    from secagg.demo.table import to_json, to_table

    if plot is not None:
        if plot.suffix.lower() not in KINDS:
            raise ConfigError(f"got --plot {plot}; expected a name that ends in {', '.join(KINDS)}")
        check_writable("--plot", plot)
    trainings = len(protocols) + (settings.epsilon is not None)
    with progress("secagg demo", trainings * settings.rounds) as begin:
        if plot is not None:
            from secagg.demo.plot import draw  # slow to import, so under the progress bar
        result = run(settings, protocols, lambda name: begin(f"training under {name}", ""))
    if as_json:
        print(json.dumps(to_json(result), indent=2))
    else:
        tables(WIDTH).print(to_table(result))
    if plot is not None:
        draw(result, plot)
        print(f"Picture: {plot}", file=sys.stderr if as_json else sys.stdout)


def check_writable(option: str, path: Path) -> None:
    """``ConfigError`` if ``path`` can't be written; for a check before minutes of work."""
    where = path if path.exists() else path.absolute().parent
    if path.is_dir() or not where.exists() or not os.access(where, os.W_OK):
        raise ConfigError(f"got {option} {path}, which can't be written; name a file in a folder that exists")
