"""Digits of eight by eight points, and a network with a convolution."""

import torch
from sklearn.datasets import load_digits
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))

    def forward(self, pictures):
        return self.layers(pictures)


def load_data(part, parts):
    pictures, labels = load_digits(return_X_y=True)
    pictures = torch.tensor(pictures[part::parts] / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return pictures, torch.tensor(labels[part::parts])


def train(net, pictures, labels, rate):
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(pictures), labels)
        loss.backward()
        optimizer.step()
    return loss.item()


def accuracy(net, pictures, labels):
    with torch.no_grad():
        return (net(pictures).argmax(dim=1) == labels).float().mean().item()
