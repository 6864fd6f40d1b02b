"""DP-SGD with Opacus at each client, paid for by the client's ledger of *records*, and secure sums above.

    pip install opacus torch scikit-learn
    python examples/dpsgd_opacus.py

Ghost clipping bounds each example's gradient without holding it, which takes hooks in a framework's layers: that is
why this library leaves it to Opacus. What Opacus did is read off ``accountant.history``: the noise multiplier, the
rate of Poisson sampling, and the number of steps. They are charged before the update leaves. Opacus adds noise of
floats; ``secagg.federated.DPSGD`` adds integers.
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


class Client:
    """A client's data, its Opacus engine, and its ledger."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        data = TensorDataset(torch.tensor(pixels, dtype=torch.float32), torch.tensor(labels))
        module, self.engine = make_model(), PrivacyEngine(accountant="rdp")
        self.model, self.optimizer, self.criterion, self.loader = self.engine.make_private(
            module=module,
            optimizer=torch.optim.SGD(module.parameters(), lr=0.5),
            criterion=nn.CrossEntropyLoss(),
            data_loader=DataLoader(data, batch_size=64),
            noise_multiplier=1.3,
            max_grad_norm=1.0,
            grad_sample_mode="ghost",
        )
        if not isinstance(self.loader.batch_sampler, UniformWithReplacementSampler):
            raise TypeError("the account is of Poisson samples: make_private(poisson_sampling=True)")
        self.ledger = dp.PrivacyLedger(EPSILON, DELTA, unit="record", trust="central")
        self.charged = 0

    def local_change(self, weights: Weights) -> Weights:
        """Two epochs, charged before anything of them leaves."""
        self.model._module.load_state_dict(weights)
        for _ in range(2):
            for pixels, labels in self.loader:
                self.optimizer.zero_grad()
                self.criterion(self.model(pixels), labels).backward()
                self.optimizer.step()
        ((noise, rate, steps),) = self.engine.accountant.history  # one entry as long as neither changes
        release = Release(PoissonSampled(rate, GaussianEvent(noise)), "record", "central")
        self.ledger.charge(release, steps - self.charged)
        self.charged = steps
        return {name: after - weights[name] for name, after in self.model._module.state_dict().items()}


def make_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def main() -> None:
    warnings.filterwarnings("ignore", module="opacus|torch")
    torch.set_num_threads(1)
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    parts = np.array_split(order[:1437], CLIENTS)
    clients = {f"c{number}": Client(pixels[rows] / 16, labels[rows]) for number, rows in enumerate(parts)}
    model, optimizer = make_model(), FedAvg()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state, layout, encoding = optimizer.start(weights), secagg.Layout.of(weights), secagg.FixedPoint(clip=2.0)
    task = secagg.Task(secagg.SecAgg(), layout, encoding, max_clients=CLIENTS, min_survivors=CLIENTS)
    for number in range(ROUNDS):
        updates = {name: client.local_change(weights) for name, client in clients.items()}
        mean = secagg.simulate(task, updates, session=b"round %d" % number).mean
        weights, state = optimizer.step(weights, mean, state)
    model.load_state_dict(weights)
    test = torch.tensor(pixels[order[1437:]] / 16, dtype=torch.float32)
    guessed = model(test).argmax(1).numpy()
    print(f"accuracy: {np.mean(guessed == labels[order[1437:]]):.1%}")
    for name, client in clients.items():
        theirs = client.engine.get_epsilon(DELTA)
        print(f"{name}: epsilon of a record {client.ledger.spent:.3f}, by Opacus's accountant {theirs:.3f}")


if __name__ == "__main__":
    main()
