"""The server of the same app."""

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from sklearnexample.task import (
    create_log_reg_and_instantiate_parameters,
    get_model_params,
)

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    model = create_log_reg_and_instantiate_parameters(context.run_config["penalty"])
    result = FedAvg(fraction_train=1.0, fraction_evaluate=1.0).start(
        grid=grid,
        initial_arrays=ArrayRecord(get_model_params(model)),
        num_rounds=context.run_config["num-server-rounds"],
    )
    np.savez(context.run_config["result"], *result.arrays.to_numpy_ndarrays())
