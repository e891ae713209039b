"""What all victims have in common: an image's logits are its own, and each is found by its name."""

import pytest
import torch
from torch import nn

import zeroth.networks
from zeroth.networks import VGG16BN, CarliniWagnerCNN, CIFARResNet, DigitsCNN, LeNet, TorchvisionClassifier

VICTIMS = [
    (DigitsCNN(num_classes=7), (1, 8, 8), 7),
    (CarliniWagnerCNN(), (1, 28, 28), 10),
    (LeNet(num_classes=6), (1, 28, 28), 6),
    (CarliniWagnerCNN(batch_norm=True, num_classes=4), (1, 28, 28), 4),
    (CarliniWagnerCNN(image_shape=(3, 32, 32), channels=(64, 128), hidden=256), (3, 32, 32), 10),
    (CIFARResNet(depth=20, num_classes=100), (3, 32, 32), 100),
    (VGG16BN(), (1, 28, 28), 10),
    (TorchvisionClassifier("resnet18", num_classes=10), (3, 96, 96), 10),
]


@pytest.mark.parametrize(("network", "shape", "classes"), VICTIMS, ids=lambda value: type(value).__name__)
def test_logits_of_an_image_depend_on_that_image_alone(
    network: nn.Module, shape: tuple[int, ...], classes: int
) -> None:
    network.eval()
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    assert together.shape == (3, classes)
    assert network.num_classes == classes
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_every_file_offers_its_classes_by_name() -> None:
    assert {"CIFARResNet", "CarliniWagnerCNN", "DigitsCNN", "LeNet", "TorchvisionClassifier", "VGG16BN"} <= set(
        zeroth.networks.__all__
    )
