"""One SecAgg+ round in Flower, by its own workflow and mod and by ours: ``pytest bench/test_flower_round.py``.

Sixteen clients, 10^6 coordinates of float32, 22 bits, weights, everyone everyone's neighbour, nobody drops out.
Both go over the same loopback grid and are timed from the strategy's broadcast to the aggregated model. Training
is a look-up. Bytes are counted in a run of their own, in which each message takes Flower's bytes; Flower's
hashing of these, and its copies of each node's context, are not in the times.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import secagg

pytest.importorskip("flwr", reason="needs Flower: pip install 'secagg[flower]'")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from secagg.integrations.flower import SecureGrid, client_mod, layout_of
from tests.integrations.loopback import RUN, LoopbackGrid

CLIENTS, SIZE, BITS, CLIP, MAX_WEIGHT = 16, 10**6, 22, 8.0, 1000
THRESHOLD = 11  # for both, though Flower calls it a number of shares and we one of survivors
MODEL = np.zeros(SIZE, np.float32)
MEASURED: dict[str, tuple[float, int, int]] = {}

Benchmark = Callable[..., Any]


def trained(client: int) -> Any:
    return np.linspace(-1, 1, SIZE, dtype=np.float32) * np.float32(client / CLIENTS)


EXPECTED = sum(trained(client) * (10 * client) for client in range(1, CLIENTS + 1)) / sum(
    10 * client for client in range(1, CLIENTS + 1)
)


def ours(true_bytes: bool) -> tuple[Any, LoopbackGrid]:
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
            metrics = MetricRecord({"num-examples": 10 * client})
            return Message(RecordDict({"arrays": ArrayRecord({"w": array}), "m": metrics}), reply_to=message)

        return app

    grid = LoopbackGrid([make(client) for client in range(1, CLIENTS + 1)], true_bytes=true_bytes)
    secure = SecureGrid(grid, task)
    strategy = FedAvg(fraction_evaluate=0.0)
    return lambda: strategy.start(grid=secure, initial_arrays=record, num_rounds=1).arrays["w"].numpy(), grid


def flowers(true_bytes: bool) -> tuple[Any, LoopbackGrid]:
    from flwr.client import NumPyClient
    from flwr.client.mod import secaggplus_mod
    from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server import LegacyContext
    from flwr.server.client_manager import SimpleClientManager
    from flwr.server.compat.grid_client_proxy import GridClientProxy
    from flwr.server.strategy import FedAvg as LegacyFedAvg
    from flwr.server.workflow import SecAggPlusWorkflow
    from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key

    class Looks(NumPyClient):  # type: ignore[misc]
        def __init__(self, client: int) -> None:
            self.client, self.vector = client, trained(client)

        def fit(self, parameters: Any, config: Any) -> Any:
            return [self.vector], 10 * self.client, {}

    def make(client: int) -> ClientApp:
        looks = Looks(client).to_client()

        def client_fn(context: Context) -> Any:
            return looks

        return ClientApp(client_fn=client_fn, mods=[secaggplus_mod])

    grid = LoopbackGrid([make(client) for client in range(1, CLIENTS + 1)], true_bytes=true_bytes)
    manager = SimpleClientManager()
    for node in grid.get_node_ids():
        manager.register(GridClientProxy(node, grid, RUN))
    strategy = LegacyFedAvg(fraction_evaluate=0.0, min_fit_clients=CLIENTS, min_available_clients=CLIENTS)
    context = LegacyContext(Context(RUN, 1, {}, RecordDict(), {}), strategy=strategy, client_manager=manager)
    workflow = SecAggPlusWorkflow(1.0, THRESHOLD, max_weight=MAX_WEIGHT, clipping_range=CLIP)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: 1})
    compat = pytest.importorskip("flwr.compat.common.recorddict_compat")
    model = compat.parameters_to_arrayrecord(ndarrays_to_parameters([MODEL]), keep_input=True)
    context.state.array_records[MAIN_PARAMS_RECORD] = model

    def round_() -> Any:
        workflow(grid, context)
        found = compat.arrayrecord_to_parameters(context.state.array_records[MAIN_PARAMS_RECORD], keep_input=True)
        return parameters_to_ndarrays(found)[0]

    return round_, grid


@pytest.mark.parametrize("whose", [ours, flowers])
@pytest.mark.benchmark(group="one round, n=16, d=1e6, 22 bits", warmup=False)
def test_round(benchmark: Any, whose: Callable[[bool], tuple[Any, LoopbackGrid]]) -> None:
    run, grid = whose(true_bytes=True)  # counts, and compiles what there is to compile
    np.testing.assert_allclose(run(), EXPECTED, atol=MAX_WEIGHT / 10 * CLIP / 2**BITS)
    benchmark.extra_info |= {"bytes_up": grid.up, "bytes_down": grid.down}

    def prepared() -> tuple[tuple[Any], dict[str, Any]]:
        return (whose(true_bytes=False)[0],), {}

    benchmark.pedantic(lambda run: run(), setup=prepared, rounds=5 if whose is ours else 2)
    MEASURED[whose.__name__] = benchmark.stats.stats.min, grid.up, grid.down


def test_fewer_bytes_and_how_much_faster() -> None:
    if len(MEASURED) != 2:
        pytest.skip("needs both rounds: run the whole file, without --benchmark-disable")
    (mine, mine_up, mine_down), (theirs, their_up, their_down) = MEASURED["ours"], MEASURED["flowers"]
    print(
        f"\n{mine:.2f} s and {theirs:.2f} s; up {mine_up:,} and {their_up:,}; down {mine_down:,} and {their_down:,}"
    )
    assert mine < theirs
    assert mine_up / their_up <= 0.42
