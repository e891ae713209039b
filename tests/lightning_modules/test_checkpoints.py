"""A checkpoint holds plain values, rebuilds its victim by itself, and runs no code."""

import functools
import pickle
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchvision
from jsonargparse import ArgumentError
from pytorch_lightning.cli import LightningCLI
from torch import nn
from torchvision.models import WeightsEnum

import zeroth.networks
from cli.victims import load_checkpoint
from datamodules import Digits
from lightning_modules import Classifier
from lightning_modules.hyperparameters import describe
from zeroth.networks import CarliniWagnerCNN, CIFARResNet, DigitsCNN, TorchvisionClassifier

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "max_steps": 1,
    "limit_val_batches": 0,
}


def saved(module: Classifier, path: Path) -> Path:
    trainer = pl.Trainer(enable_checkpointing=False, **QUIET)
    trainer.fit(module, Digits())
    trainer.save_checkpoint(path)
    return path


def assert_plain(value: object) -> None:
    if isinstance(value, dict):
        for entry in value.values():
            assert_plain(entry)
    elif isinstance(value, list):
        for entry in value:
            assert_plain(entry)
    else:
        assert value is None or type(value) in (bool, int, float, str), value


def assert_rebuilt(path: Path, module: Classifier) -> Classifier:
    checkpoint = torch.load(path)  # torch's default: weights_only
    assert_plain(dict(checkpoint["hyper_parameters"]))
    rebuilt = Classifier.load_from_checkpoint(path)
    images = torch.rand(4, *module.network.image_shape)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(images), module.eval()(images))
    return rebuilt


def test_made_by_the_command_line(tmp_path: Path) -> None:
    config = {
        "model": {
            "class_path": "Classifier",
            "init_args": {
                "network": {"class_path": "DigitsCNN", "init_args": {"width": 5}},
                "noise_sigma": 0.5,
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.125}},
                "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 7}},
            },
        },
        "data": {"class_path": "Digits"},
    }
    cli = LightningCLI(
        Classifier,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        run=False,
        save_config_callback=None,
        trainer_defaults={"enable_checkpointing": False, **QUIET},
        args=config,
    )
    assert cli.datamodule.num_classes == 10
    rebuilt = assert_rebuilt(saved(cli.model, tmp_path / "a.ckpt"), cli.model)
    assert (rebuilt.network.width, rebuilt.noise_sigma) == (5, 0.5)
    optimizer = rebuilt.configure_optimizers()
    assert optimizer["optimizer"].param_groups[0]["lr"] == 0.125
    assert optimizer["lr_scheduler"]["scheduler"].step_size == 7
    # What was rebuilt and saved again says the same.
    again = torch.load(saved(rebuilt, tmp_path / "b.ckpt"))["hyper_parameters"]
    assert again == torch.load(tmp_path / "a.ckpt")["hyper_parameters"]


def test_made_in_python(tmp_path: Path) -> None:
    module = Classifier(
        DigitsCNN(width=6),
        label_smoothing=0.1,
        optimizer=functools.partial(torch.optim.SGD, lr=0.5),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1),  # not plain: left out
    )
    path = saved(module, tmp_path / "a.ckpt")
    rebuilt = assert_rebuilt(path, module)
    assert (rebuilt.network.width, rebuilt.label_smoothing) == (6, 0.1)
    assert rebuilt.configure_optimizers().param_groups[0]["lr"] == 0.5
    assert "lr_scheduler" not in torch.load(path)["hyper_parameters"]


def test_a_subclass_keeps_its_own_arguments(tmp_path: Path) -> None:
    module = Subclass(DigitsCNN(width=3), temperature=2.5)
    rebuilt = Subclass.load_from_checkpoint(saved(module, tmp_path / "a.ckpt"))
    assert (rebuilt.temperature, rebuilt.network.width) == (2.5, 3)


class Subclass(Classifier):
    def __init__(self, network: nn.Module, *, temperature: float = 1.0) -> None:
        super().__init__(network)
        self.temperature = temperature


def test_a_network_without_description_is_named_and_given_again(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.warns(UserWarning, match=r"Sequential does not keep .*'args'.*load_from_checkpoint\(path, network="):
        module = Classifier(network, num_classes=10)
    path = saved(module, tmp_path / "a.ckpt")
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    rebuilt = Classifier.load_from_checkpoint(path, network=other)
    assert torch.equal(rebuilt.network[1].weight, module.network[1].weight)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights in the place of squeezenet's published ones."""
    state = torchvision.models.squeezenet1_1().state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *args, **kwargs: state)


def offline(*args: object, **kwargs: object) -> None:
    raise AssertionError("the published weights were asked for")


@pytest.mark.parametrize("by", ["the command line", "Python"])
def test_published_weights_are_not_fetched_again_for_a_checkpoint(
    by: str, tmp_path: Path, published: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"name": "squeezenet1_1", "weights": "DEFAULT"}
    if by == "Python":
        module = Classifier(TorchvisionClassifier(**arguments))
    else:
        network = {"class_path": "TorchvisionClassifier", "init_args": arguments}
        cli = LightningCLI(
            Classifier,
            run=False,
            save_config_callback=None,
            trainer_defaults={"enable_checkpointing": False, **QUIET},
            args={"model": {"network": network}},
        )
        module = cli.model
        assert cli.config.model.network.init_args.weights == "DEFAULT"  # what was asked for stays in the config
    with torch.no_grad():
        module.network.model.features[0].bias.add_(1.0)  # training moved them
    trainer = pl.Trainer(enable_checkpointing=False, **QUIET)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline)
    image = torch.rand(1, 3, 64, 64)
    for rebuilt in (Classifier.load_from_checkpoint(tmp_path / "a.ckpt"), load_checkpoint(tmp_path / "a.ckpt")[0]):
        with torch.no_grad():
            assert torch.equal(rebuilt.eval()(image), module.eval()(image))
        assert rebuilt.network.mean == (0.485, 0.456, 0.406) and rebuilt.num_classes == 1000
    assert_plain(torch.load(tmp_path / "a.ckpt")["hyper_parameters"])


TRAINED = ["CIFARResNet", "CarliniWagnerCNN", "DigitsCNN", "LeNet", "TorchvisionClassifier", "VGG16BN"]


@pytest.mark.parametrize("name", TRAINED)
def test_every_victim_that_is_trained_can_be_described(name: str) -> None:
    cls = getattr(zeroth.networks, name)
    arguments: dict[str, Any] = {"name": "resnet18", "num_classes": 4} if name == "TorchvisionClassifier" else {}
    description = describe(cls(**arguments))
    assert_plain(description)
    assert description["class_path"] == f"{cls.__module__}.{name}"
    again = cls(**description["init_args"])
    assert describe(again) == description


def test_description_of_what_was_chosen() -> None:
    assert describe(CIFARResNet(depth=8, num_classes=3))["init_args"] == {
        "depth": 8,
        "num_classes": 3,
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2470, 0.2435, 0.2616],
    }
    assert describe(CarliniWagnerCNN(hidden=16))["init_args"]["hidden"] == 16
    assert describe(torch.optim.Adam)["class_path"].endswith(".Adam")
    with pytest.raises(TypeError, match="cannot be written as plain"):
        describe(lambda: 0)


@pytest.mark.filterwarnings(r"ignore:\s*Importing .* is not allowed")  # jsonargparse 5 will refuse it by itself
def test_a_class_path_that_is_no_network_is_refused_and_not_called(tmp_path: Path) -> None:
    path = saved(Classifier(DigitsCNN(width=2)), tmp_path / "a.ckpt")
    checkpoint = torch.load(path)
    marker = tmp_path / "ran"
    checkpoint["hyper_parameters"]["network"] = {"class_path": "os.mkdir", "init_args": {"path": str(marker)}}
    torch.save(checkpoint, path)
    with pytest.raises(ArgumentError, match="network"):
        Classifier.load_from_checkpoint(path)
    assert not marker.exists()


class Payload:
    """Pickles to a call, as an attacker's file would."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("place", ["hyper_parameters", "callbacks"])
def test_a_pickled_callable_is_refused_and_not_run(place: str, tmp_path: Path) -> None:
    path = saved(Classifier(DigitsCNN(width=2)), tmp_path / "a.ckpt")
    checkpoint = torch.load(path)
    checkpoint[place] = {**checkpoint.get(place, {}), "extra": Payload(tmp_path / "ran")}
    torch.save(checkpoint, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path)
    with pytest.raises(pickle.UnpicklingError):
        Classifier.load_from_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # the payload is real
