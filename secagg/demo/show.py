"""The command ``secagg demo``: trains, prints and draws."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from secagg._commands import check_writable
from secagg.demo.screen import progress, tables
from secagg.demo.training import Settings, run, usual_dropouts
from secagg.errors import ConfigError
from secagg.protocols.base import AggregationProtocol

KINDS = (".png", ".svg", ".pdf")
WIDTH = 80


def show(
    protocols: Mapping[str, AggregationProtocol],
    *,
    clients: int,
    rounds: int,
    dropouts: int | None,
    seed: int,
    epsilon: float | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Train under each of ``protocols``; print a table, or JSON, and draw to ``plot`` unless it is None.

    ``dropouts`` None stands for two hospitals, or as many as all protocols can do without. Raises ``ConfigError``,
    before anything is trained, for what can't be done.
    """
    from secagg.demo.table import to_json, to_table

    settings = Settings(clients, rounds, dropouts or 0, seed, epsilon)
    if plot is not None:
        if plot.suffix.lower() not in KINDS:
            raise ConfigError(f"got --plot {plot}; expected a name that ends in {', '.join(KINDS)}")
        check_writable("--plot", plot)
    if dropouts is None:
        settings = Settings(clients, rounds, usual_dropouts(clients, protocols.values()), seed, epsilon)
    trainings = len(protocols) + (epsilon is not None)
    with progress("secagg demo", trainings * rounds) as begin:
        if plot is not None:
            from secagg.demo.plot import draw  # here, since it takes long
        result = run(settings, protocols, lambda name: begin(f"training under {name}", ""))
    if as_json:
        print(json.dumps(to_json(result), indent=2))
    else:
        tables(WIDTH).print(to_table(result))
    if plot is not None:
        draw(result, plot)
        print(f"Picture: {plot}", file=sys.stderr if as_json else sys.stdout)
