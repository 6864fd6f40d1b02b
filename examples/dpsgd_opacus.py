"""DP-SGD with Opacus at each client, paid for by the client's ledger of *records*, and secure sums above.

    pip install opacus torch scikit-learn
    python examples/dpsgd_opacus.py

Ghost clipping bounds each example's gradient without holding it. It takes hooks in a framework's layers, so it is
left to Opacus. ``accountant.history`` says what Opacus did: noise multiplier, rate of the Poisson samples, steps.
Opacus adds noise of floats; ``secagg.federated.DPSGD`` adds integers. The same training in the clear is beside it.
"""

import warnings

import numpy as np
import torch
from opacus import PrivacyEngine
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import dp
import secagg
from dp.events import GaussianEvent, PoissonSampled, Release
from secagg.federated import FedAvg

CLIENTS, ROUNDS, EPSILON, DELTA = 3, 8, 8.0, 1e-5
Weights = dict[str, torch.Tensor]


def make_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


class Client:
    """A client's data, and how it trains: if ``private``, with Opacus, which its ledger pays for."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, private: bool) -> None:
        data = TensorDataset(torch.tensor(pixels, dtype=torch.float32), torch.tensor(labels))
        self.private, self.charged = private, 0
        self.module, self.engine = make_model(), PrivacyEngine(accountant="rdp")
        optimizer = torch.optim.SGD(self.module.parameters(), lr=0.5)
        self.parts = self.module, optimizer, nn.CrossEntropyLoss(), DataLoader(data, batch_size=64, shuffle=True)
        self.ledger = dp.PrivacyLedger(EPSILON, DELTA, unit="record", trust="central")
        if private:
            names = dict(zip(("module", "optimizer", "criterion", "data_loader"), self.parts, strict=True))
            noise = {"noise_multiplier": 1.3, "max_grad_norm": 1.0, "grad_sample_mode": "ghost"}
            self.parts = self.engine.make_private(**names, **noise)
            if not isinstance(self.parts[3].batch_sampler, UniformWithReplacementSampler):
                raise TypeError("the account is of Poisson samples: make_private(poisson_sampling=True)")

    def local_change(self, weights: Weights) -> Weights:
        """What two epochs change, charged before anything of it leaves."""
        model, optimizer, criterion, loader = self.parts
        self.module.load_state_dict(weights)
        for pixels, labels in [*loader, *loader]:
            optimizer.zero_grad()
            criterion(model(pixels), labels).backward()
            optimizer.step()
        if self.private:
            ((noise, rate, steps),) = self.engine.accountant.history  # one entry as long as neither changes
            release = Release(PoissonSampled(rate, GaussianEvent(noise)), "record", "central")
            self.ledger.charge(release, steps - self.charged)
            self.charged = steps
        return {name: after - weights[name] for name, after in self.module.state_dict().items()}


def train(clients: dict[str, Client], private: bool) -> nn.Module:
    """The model after all rounds; if ``private``, the server learns the means alone."""
    model, optimizer = make_model(), FedAvg()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state, layout, encoding = optimizer.start(weights), secagg.Layout.of(weights), secagg.FixedPoint(clip=2.0)
    task = secagg.Task(secagg.SecAgg(), layout, encoding, max_clients=CLIENTS, min_survivors=CLIENTS)
    for number in range(ROUNDS):
        updates = {name: client.local_change(weights) for name, client in clients.items()}
        mean = {name: sum(update[name] for update in updates.values()) / CLIENTS for name in weights}
        if private:
            mean = secagg.simulate(task, updates, session=b"round %d" % number).mean
        weights, state = optimizer.step(weights, mean, state)
    model.load_state_dict(weights)
    return model


def main() -> None:
    warnings.filterwarnings("ignore", module="opacus|torch")
    torch.set_num_threads(1)  # for layers this small, more threads only wait for each other
    torch.seed()  # torch begins with a seed that everybody knows: noise and samples would follow from it
    pixels, labels = load_digits(return_X_y=True)
    pixels, order = pixels / 16, np.random.default_rng(0).permutation(len(labels))
    cuts, test = np.array_split(order[:1437], CLIENTS), order[1437:]
    for private, how in ((False, "in the clear:  "), (True, "under DP-SGD:  ")):
        clients = {f"c{number}": Client(pixels[rows], labels[rows], private) for number, rows in enumerate(cuts)}
        scores = train(clients, private)(torch.tensor(pixels[test], dtype=torch.float32))
        print(f"accuracy {how} {np.mean(scores.argmax(1).numpy() == labels[test]):.1%}", flush=True)
    for name, client in clients.items():
        ours, theirs = client.ledger.spent, client.engine.get_epsilon(DELTA)
        print(f"{name}: epsilon of a record {ours:.3f}, by Opacus's accountant {theirs:.3f}")


if __name__ == "__main__":
    main()
