"""The client of an app that is shaped as Flower's quickstart for PyTorch is."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from pytorchexample.task import Net, accuracy, load_data, train as train_net

app = ClientApp()


def load(message, context):
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return net, *load_data(context.node_config["partition-id"], context.node_config["num-partitions"])


@app.train()
def train(message: Message, context: Context):
    net, pictures, labels = load(message, context)
    loss = train_net(net, pictures, labels, message.content["config"]["lr"])
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(labels)})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context):
    net, pictures, labels = load(message, context)
    metrics = MetricRecord({"accuracy": accuracy(net, pictures, labels), "num-examples": len(labels)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
