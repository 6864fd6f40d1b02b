"""A user's training script: it moves the model by amounts that belong to its site, and notes what it has to hide.

``--forms`` says for each round how the result is sent: ``full`` or ``diff``, and the type of its numbers. The site
that ``--dies`` names is killed while it trains. With ``--track`` the loss is written for experiment tracking too.
"""

import argparse
import os
import signal
from pathlib import Path

import numpy as np
import nvflare.client as flare
from nvflare.client.tracking import SummaryWriter


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--notes", type=Path)
    parser.add_argument("--forms", default="full:<f4")
    parser.add_argument("--dies", default="")
    parser.add_argument("--track", action="store_true")
    options = parser.parse_args()
    forms = options.forms.split(",")
    flare.init()
    site = flare.get_site_name()
    own = int(site.rpartition("-")[2])
    while flare.is_running():
        model = flare.receive()
        if site == options.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        number = model.current_round
        before = {name: np.asarray(array) for name, array in model.params.items()}
        rng = np.random.default_rng([own, number])
        after = {name: array + rng.uniform(-0.1, 0.1, array.shape) for name, array in before.items()}
        steps, loss = 7_654_321 + 100_003 * own + number, float(rng.uniform(1, 2))
        kind, _, form = forms[number % len(forms)].partition(":")
        sent = {
            name: (array - before[name] if kind == "diff" else array).astype(form) for name, array in after.items()
        }
        arrays = {f"before/{name}": array for name, array in before.items()}
        for name, array in sent.items():  # the model as it is sent, with its rounding to this type
            arrays[f"after/{name}"] = array.astype(float) + (before[name] if kind == "diff" else 0)
        np.savez(options.notes / f"{site}.{number}.npz", steps=steps, loss=loss, **arrays)
        if options.track:
            SummaryWriter().add_scalar("loss", loss, number)
        flare.send(
            flare.FLModel(
                params=sent,
                params_type=flare.ParamsType.DIFF if kind == "diff" else flare.ParamsType.FULL,
                metrics={"loss": loss},
                meta={"NUM_STEPS_CURRENT_ROUND": steps},
            )
        )


if __name__ == "__main__":
    main()
