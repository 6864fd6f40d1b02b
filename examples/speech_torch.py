"""A small speech network, trained by homes that show nobody their recordings. PyTorch.

    pip install torch sktime
    python examples/speech_torch.py

The data come with sktime: nine men say two Japanese vowels, as 12 cepstral coefficients over 7 to 29 frames (Kudo,
Toyama and Shimbo 1999), and the network tells who speaks. Each of six homes has three of the voices. What travels
is the change of ``model.state_dict()``; ``load_state_dict`` takes the server's next one. The same training in the
clear is printed beside it.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import secagg
from secagg.federated import FedAdam

HOMES, ROUNDS, FRAMES = 6, 30, 29
Weights = dict[str, torch.Tensor]
Utterances = tuple[torch.Tensor, torch.Tensor]  # the coefficients, and who speaks


def utterances(part: str) -> Utterances:
    """The coefficients, padded with zeros, and the speakers."""
    sktime = importlib.util.find_spec("sktime")
    if sktime is None or sktime.origin is None:
        raise ModuleNotFoundError("the data are sktime's: pip install sktime")
    text = (Path(sktime.origin).parent / f"datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts").read_text()
    lines = text.split("@data\n")[1].strip().splitlines()
    sounds, speakers = torch.zeros(len(lines), 12, FRAMES), []
    for number, line in enumerate(lines):
        *channels, speaker = line.split(":")
        for channel, values in enumerate(channels):
            spoken = torch.tensor([float(value) for value in values.split(",")])
            sounds[number, channel, : len(spoken)] = spoken
        speakers.append(int(speaker) - 1)
    return sounds, torch.tensor(speakers)


def make_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv1d(12, 32, 5), nn.ReLU(), nn.Conv1d(32, 32, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(1), nn.Flatten(),
        nn.Linear(32, 9),
    )  # fmt: skip


def local_change(model: nn.Module, weights: Weights, sounds: torch.Tensor, speakers: torch.Tensor) -> Weights:
    """What two local epochs change; this runs at home."""
    model.load_state_dict(weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    order = torch.randperm(len(speakers), generator=torch.Generator().manual_seed(2))
    for rows in [*order.split(16), *order.split(16)]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(sounds[rows]), speakers[rows]).backward()
        optimizer.step()
    return {name: after - weights[name] for name, after in model.state_dict().items()}


def secure_mean(updates: dict[str, Weights], number: int) -> Weights:
    """The server learns this mean, and no update; ``simulate`` plays all parties here."""
    layout = secagg.Layout.of(updates["h0"])
    encoding = secagg.FixedPoint(clip=1.0, bits=16)
    task = secagg.Task(secagg.SecAgg(), layout, encoding, max_clients=HOMES, min_survivors=5, context=b"speech")
    mean: Weights = secagg.simulate(task, updates, session=b"round %d" % number).mean
    return mean


def plain_mean(updates: dict[str, Weights], number: int) -> Weights:
    every = list(updates.values())
    return {name: sum(update[name] for update in every) / len(every) for name in every[0]}


def train(mean: Callable[..., Weights], homes: dict[str, Utterances], test: Utterances) -> float:
    """The accuracy on the test utterances after all rounds."""
    model, optimizer = make_model(), FedAdam(0.03)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = optimizer.start(weights)
    for number in range(ROUNDS):
        updates = {home: local_change(model, weights, *own) for home, own in homes.items()}
        weights, state = optimizer.step(weights, mean(updates, number), state)
    model.load_state_dict(weights)
    with torch.no_grad():
        return float((model(test[0]).argmax(1) == test[1]).float().mean())


def main() -> None:
    torch.set_num_threads(1)  # for layers this small, more threads only wait for each other
    sounds, speakers = utterances("TRAIN")
    homes = {}
    for home in range(HOMES):
        here = sum(speakers == (home + 3 * voice) % 9 for voice in range(3)).bool()
        rows = torch.nonzero(here).flatten()[home // 3 :: 2]  # two homes share a voice, not an utterance
        homes[f"h{home}"] = sounds[rows], speakers[rows]
    test = utterances("TEST")
    print(f"accuracy in the clear:    {train(plain_mean, homes, test):.1%}", flush=True)
    print(f"accuracy of secure sums:  {train(secure_mean, homes, test):.1%}")


if __name__ == "__main__":
    main()
