"""The server: Flower's FedAvg, unchanged, over a grid that aggregates securely."""

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearn.datasets import load_digits

from digits.task import CLIENTS, METRICS, first_model, make_task
from secagg.integrations.flower import SecureGrid

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    secure = SecureGrid(
        grid,
        make_task(config["threat-model"]),
        metrics=METRICS,
        roster=str(config["roster"]) or None,
        run_config=config,
        deadlines=float(config["round-seconds"]),
    )
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS)
    result = strategy.start(
        grid=secure,
        initial_arrays=first_model(),
        num_rounds=int(config["rounds"]),
        timeout=float(config["training-seconds"]),
    )
    if not secure.outcomes:  # the result then holds no model
        raise SystemExit(f"no round succeeded; the last failure: {secure.failures[-1]}")
    pictures, labels = load_digits(return_X_y=True)
    scores = pictures / 16 @ result.arrays["weights"].numpy().T + result.arrays["bias"].numpy()
    for outcome in secure.outcomes:
        silent = ", ".join(f"{party} in {name}" for party, name in outcome.dropped.items()) or "nobody"
        print(f"in the sum: {', '.join(outcome.survivors)}; fell silent: {silent}")
    rounds = "1 round" if len(secure.outcomes) == 1 else f"{len(secure.outcomes)} rounds"
    print(f"accuracy {np.mean(scores.argmax(axis=1) == labels):.3f} after {rounds}", flush=True)
