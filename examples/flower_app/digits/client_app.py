"""The client: trains on its own part of the digits that come with scikit-learn."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss

from digits.task import METRICS, make_task
from secagg.integrations.flower import client_mod

app = ClientApp(mods=[client_mod(make_task(), metrics=METRICS, simulated=make_task("semi-honest"))])


@app.train()
def train(message: Message, context: Context) -> Message:
    part, parts = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    pictures, labels = load_digits(return_X_y=True)
    pictures, labels = pictures[part::parts] / 16, labels[part::parts]
    model = message.content["arrays"]
    learner = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05, random_state=0)
    learner.partial_fit(pictures[:1], labels[:1], classes=np.arange(10))  # creates coef_ and intercept_
    learner.coef_, learner.intercept_ = model["weights"].numpy().copy(), model["bias"].numpy().copy()
    for _ in range(5):
        learner.partial_fit(pictures, labels)
    loss = log_loss(labels, learner.predict_proba(pictures), labels=np.arange(10))
    arrays = ArrayRecord({"weights": Array(learner.coef_), "bias": Array(learner.intercept_)})
    metrics = MetricRecord({"num-examples": len(labels), "train_loss": float(loss)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
