"""The client of an app that is shaped as Flower's quickstart for scikit-learn is."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearnexample.task import (
    create_log_reg_and_instantiate_parameters,
    fit,
    get_model_params,
    load_data,
    set_model_params,
)

app = ClientApp()


def load(message, context):
    model = create_log_reg_and_instantiate_parameters(context.run_config["penalty"])
    set_model_params(model, message.content["arrays"].to_numpy_ndarrays())
    return model, *load_data(context.node_config["partition-id"], context.node_config["num-partitions"])


@app.train()
def train(message: Message, context: Context):
    model, flowers, kinds = load(message, context)
    fit(model, flowers, kinds)
    metrics = MetricRecord({"num-examples": len(flowers), "accuracy": model.score(flowers, kinds)})
    arrays = ArrayRecord(get_model_params(model))
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context):
    model, flowers, kinds = load(message, context)
    metrics = MetricRecord({"num-examples": len(flowers), "accuracy": model.score(flowers, kinds)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
