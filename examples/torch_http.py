"""Federated learning with PyTorch over plain HTTP, to a server that sees no update.

    python examples/torch_http.py    # needs torch and scikit-learn, which has the data

Clients POST their messages, and GET the server's as they come. On a network, add TLS and a proof of who calls, as
``two_processes.py`` does, or run ``secagg serve``, which has both.
"""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from threading import Thread
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import torch
from sklearn.datasets import load_digits

import secagg
from secagg.api.models import model_digest, read_model, write_model
from secagg.identity import enrol

IDS, ROUNDS = [f"c{number}" for number in range(6)], 8
X, Y = (torch.tensor(values) for values in load_digits(return_X_y=True))
START = torch.nn.Linear(64, 10).double().state_dict()
TASK = secagg.Task(secagg.SecAgg(), secagg.Layout.of(START), secagg.FixedPoint(clip=1.0), len(IDS), 5)
KEYS, ROSTER = enrol(IDS)  # in a deployment, each client makes its own key: see secagg keygen
INBOX, OUTBOXES = Queue[Any](), {party: Queue[bytes]() for party in IDS}


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + OUTBOXES[self.path[1:]].get())

    def do_POST(self) -> None:
        INBOX.put((self.path[1:], self.rfile.read(int(self.headers["Content-Length"]))))
        self.wfile.write(b"HTTP/1.0 204 No Content\r\n\r\n")


def local_change(party: str, model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What three passes over its own digits change; this runs at the client."""
    net, own = torch.nn.Linear(64, 10).double(), slice(IDS.index(party), None, len(IDS))
    net.load_state_dict(model)
    for x, y in 3 * list(zip(X[own].split(16), Y[own].split(16), strict=True)):
        torch.nn.functional.cross_entropy(net(x), y).backward()
        torch.optim.SGD(net.parameters(), lr=0.001).step()
        net.zero_grad()
    return {name: after - model[name] for name, after in net.state_dict().items()}


def run_client(party: str, url: str) -> None:
    wire: Any = SimpleNamespace(send=lambda data: urlopen(url, data).close(), receive=lambda: urlopen(url).read())
    for _ in range(ROUNDS):
        model = wire.receive()  # its digest names the session: if others got another model, there is no sum
        client = TASK.client(party, identity=KEYS[party], roster=ROSTER, session=model_digest(model))
        client.contribute(local_change(party, read_model(model, like=START)))
        secagg.run_client(client, wire)


if __name__ == "__main__":
    wire: Any = SimpleNamespace(send=lambda to, data: OUTBOXES[to].put(data), receive=lambda t: INBOX.get(True, t))
    pages, model = ThreadingHTTPServer(("127.0.0.1", 0), Pages), dict(START)
    Thread(target=pages.serve_forever, daemon=True).start()
    for party in IDS:
        url = f"http://127.0.0.1:{pages.server_port}/{party}"
        Thread(target=run_client, args=(party, url), daemon=True).start()
    for _ in range(ROUNDS):
        data = write_model(model)
        for party in IDS:
            wire.send(party, data)
        server = TASK.server(IDS, roster=ROSTER, session=model_digest(data))
        mean = secagg.run_server(server, wire, deadlines=60).mean
        model = {name: value + torch.as_tensor(mean[name]) for name, value in model.items()}
    print(f"accuracy: {((X @ model['weight'].T + model['bias']).argmax(1) == Y).double().mean():.1%}")
