"""One SecAgg+ round in Flower, by its own workflow and mod, and by ours.

There are sixteen clients with weights, 10^6 coordinates of float32 at 22 bits, a complete graph, and no dropouts.
Both sides use the same loopback grid and run from the broadcast of the strategy to the aggregated model. Training
is a look-up. With ``true_bytes`` each message is serialised by Flower, and its bytes are counted. Without it,
messages are handed over as they are, so that Flower's hashing of objects and its copies of contexts are not timed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

import secagg
from bench.loopback import RUN, LoopbackGrid
from bench.peers import Absent
from secagg.integrations.flower import SecureGrid, client_mod, layout_of

CLIENTS, SIZE, BITS, CLIP, MAX_WEIGHT = 16, 10**6, 22, 8.0, 1000
THRESHOLD = 11  # Flower counts shares, we count survivors
MODEL = np.zeros(SIZE, np.float32)
TOLERANCE = MAX_WEIGHT / 10 * CLIP / 2**BITS


def trained(client: int) -> Any:
    """The vector that a client trains."""
    return np.linspace(-1, 1, SIZE, dtype=np.float32) * np.float32(client / CLIENTS)


def weight(client: int) -> int:
    """The number of examples of a client."""
    return 10 * client


def is_right(model: Any) -> bool:
    """Whether ``model`` is the weighted mean, within the error of quantization."""
    everyone = range(1, CLIENTS + 1)
    exact = sum(trained(client) * weight(client) for client in everyone) / sum(map(weight, everyone))
    return bool(np.allclose(model, exact, rtol=0, atol=TOLERANCE))


def ours(*, true_bytes: bool) -> tuple[Any, LoopbackGrid]:
    """Our round: a function that runs it and returns the model, and the grid that it uses."""
    record = ArrayRecord({"w": Array(MODEL)})
    task = secagg.Task(
        protocol=secagg.SecAggPlus(threat_model="semi-honest", corruption=0.33),
        layout=layout_of(record),
        encoding=secagg.FixedPoint(clip=CLIP, bits=BITS),
        max_clients=CLIENTS,
        min_survivors=THRESHOLD,
        max_weight=MAX_WEIGHT,
    )

    def make(client: int) -> ClientApp:
        app = ClientApp(mods=[client_mod(task)])
        array = Array(trained(client))

        @app.train()
        def train(message: Message, context: Context) -> Message:
            metrics = MetricRecord({"num-examples": weight(client)})
            return Message(RecordDict({"arrays": ArrayRecord({"w": array}), "m": metrics}), reply_to=message)

        return app

    grid = LoopbackGrid([make(client) for client in range(1, CLIENTS + 1)], true_bytes=true_bytes)
    secure = SecureGrid(grid, task)
    strategy = FedAvg(fraction_evaluate=0.0)
    return lambda: strategy.start(grid=secure, initial_arrays=record, num_rounds=1).arrays["w"].numpy(), grid


def flowers(*, true_bytes: bool) -> tuple[Any, LoopbackGrid]:
    """The round by Flower's legacy workflow, the only one with SecAgg+; see :func:`ours`."""
    from flwr.client import NumPyClient
    from flwr.client.mod import secaggplus_mod
    from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server import LegacyContext
    from flwr.server.client_manager import SimpleClientManager
    from flwr.server.compat.grid_client_proxy import GridClientProxy
    from flwr.server.strategy import FedAvg as LegacyFedAvg
    from flwr.server.workflow import SecAggPlusWorkflow
    from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key

    try:
        from flwr.compat.common import recorddict_compat
    except ImportError as error:
        raise Absent(f"this version of Flower lacks a module that its SecAgg+ workflow needs: {error}") from error

    class LookUp(NumPyClient):  # type: ignore[misc]
        def __init__(self, client: int) -> None:
            self.client, self.vector = client, trained(client)

        def fit(self, parameters: Any, config: Any) -> Any:
            return [self.vector], weight(self.client), {}

    def make(client: int) -> ClientApp:
        look_up = LookUp(client).to_client()

        def client_fn(context: Context) -> Any:
            return look_up

        return ClientApp(client_fn=client_fn, mods=[secaggplus_mod])

    grid = LoopbackGrid([make(client) for client in range(1, CLIENTS + 1)], true_bytes=true_bytes)
    manager = SimpleClientManager()
    for node in grid.get_node_ids():
        manager.register(GridClientProxy(node, grid, RUN))
    strategy = LegacyFedAvg(fraction_evaluate=0.0, min_fit_clients=CLIENTS, min_available_clients=CLIENTS)
    context = LegacyContext(Context(RUN, 1, {}, RecordDict(), {}), strategy=strategy, client_manager=manager)
    workflow = SecAggPlusWorkflow(1.0, THRESHOLD, max_weight=MAX_WEIGHT, clipping_range=CLIP)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    model = recorddict_compat.parameters_to_arrayrecord(ndarrays_to_parameters([MODEL]), keep_input=True)
    context.state.array_records[MAIN_PARAMS_RECORD] = model

    def round_() -> Any:
        workflow(grid, context)
        parameters = recorddict_compat.arrayrecord_to_parameters(
            context.state.array_records[MAIN_PARAMS_RECORD], keep_input=True
        )
        return parameters_to_ndarrays(parameters)[0]

    return round_, grid
