"""The victim and the images on which attacks meet those of other libraries."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from zeroth.networks.digits_cnn import DigitsCNN

TRAINING = 1500  # the first so many digits


def digits() -> tuple[Tensor, Tensor]:
    loaded = load_digits()
    return torch.tensor(loaded.images).float().div(16).unsqueeze(1), torch.tensor(loaded.target)


@cache
def trained_victim() -> nn.Module:
    images, labels = (part[:TRAINING] for part in digits())
    torch.manual_seed(0)
    net = DigitsCNN()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(10):
        for part in torch.randperm(TRAINING).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[part]), labels[part]).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def right_images(count: int) -> tuple[Tensor, Tensor]:
    """The first images that the victim has not seen and gets right."""
    images, labels = (part[TRAINING:] for part in digits())
    right = (trained_victim()(images).argmax(1) == labels).nonzero().flatten()[:count]
    return images[right], labels[right]
