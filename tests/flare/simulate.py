"""Play a job in NVFlare's simulator: ``python -m tests.flare.simulate MODULE:FUNCTION FOLDER JSON``."""

import importlib
import json
import sys
from pathlib import Path

from nvflare.recipe.sim_env import SimEnv


def main() -> None:
    maker, folder, options = sys.argv[1:]
    module, _, function = maker.partition(":")
    settings = json.loads(options)
    recipe = getattr(importlib.import_module(module), function)(Path(folder), **settings)
    sites = [f"site-{number}" for number in range(1, settings["sites"] + 1)]
    recipe.execute(SimEnv(clients=sites, num_threads=len(sites), workspace_root=f"{folder}/workspace"))


if __name__ == "__main__":
    main()
