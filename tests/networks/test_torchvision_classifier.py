"""torchvision's classifiers: sizes, published weights and their settings, what is refused; nothing is downloaded."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from tests.networks.counting import parameters
from zeroth.networks import TorchvisionClassifier


def test_parameters_of_resnet18() -> None:
    with torch.device("meta"):  # counts need no weights
        assert parameters(TorchvisionClassifier("resnet18")) == 11_689_512
        assert parameters(TorchvisionClassifier("resnet18", num_classes=10)) == 11_689_512 - 990 * 513


def test_options_reach_torchvisions_model() -> None:
    with torch.device("meta"):
        small = TorchvisionClassifier("vit_b_16", options={"image_size": 32})
    assert small.model.encoder.pos_embedding.shape == (1, 2 * 2 + 1, 768)


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


def settings(network: nn.Module) -> dict[tuple[str, str], Any]:
    """Every plain attribute of every submodule."""
    plain = (bool, int, float, str, tuple)
    return {
        (name, key): value
        for name, module in network.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, plain) and not key.startswith("_")
    }


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "inception_v3", "vit_b_16", "vit_l_16", "maxvit_t"])
def test_a_model_of_published_weights_is_rebuilt_without_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for weights in torchvision.models.get_model_weights(name).__members__:
        with monkeypatch.context() as patch, torch.device("meta"):
            patch.setattr(WeightsEnum, "get_state_dict", lambda *args, **kwargs: {})
            patch.setattr(nn.Module, "load_state_dict", lambda *args, **kwargs: None)
            first = TorchvisionClassifier(name, weights=weights)
        with torch.device("meta"):
            again = TorchvisionClassifier(**first.rebuild_args)
        assert again.weights is None
        shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (first, again)]
        assert shapes[0] == shapes[1]
        assert settings(first.model) == settings(again.model)
        assert (again.num_classes, again.mean, again.std) == (1000, first.mean, first.std)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet81"}, "no classifier 'resnet81'; did you mean one of .*resnet18"),
        ({"name": "resnet18", "weights": "IMAGENET"}, "no weights 'IMAGENET'; torchvision offers .*IMAGENET1K_V1"),
        ({"name": "resnet18", "weights": "DEFAULT", "num_classes": 10}, "num_classes=10, but .* have 1000 classes"),
        ({"name": "vgg16", "weights": "IMAGENET1K_FEATURES"}, "IMAGENET1K_FEATURES of vgg16 .* tell no classes"),
        ({"name": "resnet18", "options": {"image_size": 32}}, "resnet18 does not take options=.*'image_size'"),
        ({"name": "fcn_resnet50"}, "no classifier 'fcn_resnet50'"),
    ],
)
def test_what_is_refused_is_named_with_the_choices(arguments: dict[str, Any], message: str) -> None:
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
