"""A PyTorch job, put together by hand: the model, the training script and the recipe.

The model has a batch norm, whose moving averages and counter of batches are in the sum too.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

SITES = 3


class Net(nn.Module):
    """A small network with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
        )

    def forward(self, images: Any) -> Any:
        return self.layers(images)


def make(folder: Path, *, sites: int, rounds: int) -> Any:
    """The recipe, with the filter and the aggregator in their places on NVFlare's own controller."""
    from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe

    import secagg
    from secagg.integrations.flare import SecureAggregator, SecureFilter, layout_of

    task = secagg.Task(
        protocol=secagg.SecAgg(threat_model="semi-honest"),
        layout=layout_of(Net()),
        encoding=secagg.FixedPoint(clip=8.0, bits=28),
        max_clients=sites,
        min_survivors=sites,
        max_weight=100,
    )
    (folder / "sites").mkdir()
    for number in range(1, sites + 1):
        (folder / "sites" / f"site-{number}.json").write_text("{}")
    recipe = FedAvgRecipe(
        name="job",
        model={"class_path": "tests.flare.torch_job.Net", "args": {}},
        min_clients=sites,
        num_rounds=rounds,
        train_script=str(Path(__file__)),
        train_args=f"{folder}/notes",
        aggregator=SecureAggregator(task),
    )
    recipe.add_client_output_filter(SecureFilter(task), tasks=["train"])
    return recipe


def main() -> None:
    import numpy as np
    import nvflare.client as flare

    flare.init()
    site = flare.get_site_name()
    own = int(site.rpartition("-")[2])
    while flare.is_running():
        received = flare.receive()
        net = Net()
        net.load_state_dict(received.params)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        generator = torch.Generator().manual_seed(own)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(own):
            images = torch.randn(16, 1, 8, 8, generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), torch.arange(16) % 10).backward()
            optimizer.step()
        after = net.state_dict()
        notes = {f"before/{name}": value.numpy() for name, value in before.items()}
        notes |= {f"after/{name}": value.numpy() for name, value in after.items()}
        np.savez(Path(sys.argv[1]) / f"{site}.{received.current_round}.npz", steps=own, loss=0.0, **notes)
        flare.send(flare.FLModel(params=after, meta={"NUM_STEPS_CURRENT_ROUND": own}))


if __name__ == "__main__":
    main()
