"""What each victim does with pixels."""

import math

import pytest
import torch
import torchvision
from torch import Tensor, nn

import zeroth.networks
from zeroth.networks import VGG16BN, CarliniWagnerCNN, CIFARResNet, DigitsCNN, Normalize, TorchvisionClassifier

VICTIMS = [
    (DigitsCNN(num_classes=7), (1, 8, 8), 7),
    (CarliniWagnerCNN(), (1, 28, 28), 10),
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
    assert {"CIFARResNet", "CarliniWagnerCNN", "DigitsCNN", "TorchvisionClassifier", "VGG16BN"} <= set(
        zeroth.networks.__all__
    )


def test_normalize_is_the_formula_and_travels_with_the_weights() -> None:
    layer = Normalize(mean=[0.2, 0.5, 0.8], std=[0.1, 0.2, 0.4])
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for channel, (mean, std) in enumerate([(0.2, 0.1), (0.5, 0.2), (0.8, 0.4)]):
        torch.testing.assert_close(layer(images)[:, channel], (images[:, channel] - mean) / std)
    assert set(layer.state_dict()) == {"mean", "std"}


@pytest.mark.parametrize(("mean", "std"), [([0.5], [1.0, 1.0]), ([0.5], [0.0]), ([], [])])
def test_normalize_refuses(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match="std"):
        Normalize(mean, std)


def test_resnet_shortcut_is_convolved_only_where_the_shape_changes() -> None:
    blocks = [block for stage in CIFARResNet(depth=20).stages for block in stage]
    changing = [isinstance(block.shortcut, nn.Sequential) for block in blocks]
    assert changing == [False, False, False, True, False, False, True, False, False]


def test_resnet_stages_halve_the_maps_and_double_the_widths() -> None:
    network = CIFARResNet(depth=8).eval()
    shapes = []
    maps = network.stem(network.normalize(torch.rand(1, 3, 32, 32)))
    for stage in network.stages:
        maps = stage(maps)
        shapes += [tuple(maps.shape[1:])]
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_vgg_pads_two_black_pixels_on_each_side() -> None:
    network = VGG16BN().eval()
    image = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    framed = torch.zeros(1, 1, 32, 32)
    framed[..., 2:30, 2:30] = image
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(framed), rtol=0, atol=0)


def test_digits_statistics_are_those_of_the_images() -> None:
    from sklearn.datasets import load_digits

    pixels = load_digits().images / 16
    assert math.isclose(DigitsCNN().normalize.mean.item(), pixels.mean(), abs_tol=2e-3)
    assert math.isclose(DigitsCNN().normalize.std.item(), pixels.std(), abs_tol=2e-3)


def test_published_weights_bring_their_normalisation_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    name, weights = "resnet18", torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    published = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *args, **kwargs: published)  # instead of a download
    victim = TorchvisionClassifier(name, weights="DEFAULT", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).eval()
    assert victim.num_classes == 1000
    image = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor(weights.transforms().mean), torch.tensor(weights.transforms().std)
    normalised = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(victim(image), victim.model(normalised))
    assert all(torch.equal(victim.model.state_dict()[key], value) for key, value in published.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, "no classifier 'resnet81'; did you mean one of .*resnet18"),
        ({"name": "resnet18", "weights": "IMAGENET"}, "no weights 'IMAGENET'; torchvision offers .*IMAGENET1K_V1"),
        ({"name": "resnet18", "weights": "DEFAULT", "num_classes": 10}, "num_classes=10, but .* have 1000 classes"),
        ({"name": "fcn_resnet50"}, "no classifier 'fcn_resnet50'"),
    ],
)
def test_torchvision_refuses_with_the_choices(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchvisionClassifier(**arguments)


def test_inception_gives_its_main_logits_while_it_trains() -> None:
    class WithAuxiliary(nn.Module):
        def forward(self, images: Tensor) -> object:
            logits = images.mean((2, 3))
            return torchvision.models.inception.InceptionOutputs(logits, logits + 1)

    victim = TorchvisionClassifier("resnet18", num_classes=3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    victim.model = WithAuxiliary()
    images = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(victim(images), images.mean((2, 3)))


@pytest.mark.parametrize("depth", [19, 21, 2, 0])
def test_resnet_refuses_other_depths(depth: int) -> None:
    with pytest.raises(ValueError, match=f"6 n \\+ 2.*got depth={depth}"):
        CIFARResNet(depth=depth)


def test_images_of_the_wrong_size_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 32x32 pixels, got 33x32"):
        VGG16BN()(torch.rand(1, 1, 33, 32))
    with pytest.raises(ValueError, match="image_shape=\\(1, 15, 28\\) is too small"):
        CarliniWagnerCNN(image_shape=(1, 15, 28))
