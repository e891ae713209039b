"""The network of a checkpoint stands by itself: same answers, no gradients, nothing of a stranger's file is run."""

from pathlib import Path

import pytest
import torch

from cli.victims import load_checkpoint
from lightning_modules import Classifier
from lightning_modules.hyperparameters import describe
from tests.runs import digits_checkpoint
from zeroth.networks import CheckpointClassifier, DigitsCNN
from zeroth.networks._checkpoints import fill

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def changed(path: Path, **settings) -> Path:
    """A copy of the digits checkpoint with other hyperparameters."""
    held = torch.load(digits_checkpoint())
    held["hyper_parameters"] = {**held["hyper_parameters"], **settings}
    torch.save(held, path)
    return path


def test_it_answers_as_the_trained_module_does():
    network = CheckpointClassifier(str(digits_checkpoint()))
    module, _ = load_checkpoint(digits_checkpoint())
    with torch.no_grad():
        assert torch.equal(network(IMAGES), module(IMAGES))
    assert type(network.network) is DigitsCNN
    assert (network.num_classes, network.image_shape) == (10, (1, 8, 8))
    assert describe(network)["init_args"] == {"checkpoint": str(digits_checkpoint())}


def test_no_owner_trains_it():
    network = CheckpointClassifier(str(digits_checkpoint()))
    owner = torch.nn.ModuleList([network])
    owner.train()
    assert not any(part.training for part in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = IMAGES.clone().requires_grad_()
    network(images).sum().backward()
    assert images.grad.abs().sum() > 0 and all(parameter.grad is None for parameter in network.parameters())


def test_the_classes_that_the_system_was_given_count(tmp_path):
    assert CheckpointClassifier(str(changed(tmp_path / "a.ckpt", num_classes=10))).num_classes == 10
    del (held := torch.load(digits_checkpoint()))["hyper_parameters"]["num_classes"]
    torch.save(held, tmp_path / "b.ckpt")
    assert CheckpointClassifier(str(tmp_path / "b.ckpt")).num_classes == 10


class Around(torch.nn.Module):
    def __init__(self, *, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.num_classes = 10

    def forward(self, images):
        return self.inner(images)


def test_a_network_in_a_network(tmp_path):
    torch.manual_seed(0)
    module = Classifier(Around(inner=DigitsCNN(width=3)))
    settings = {"network": describe(module.network)}
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": settings}, tmp_path / "a.ckpt")
    network = CheckpointClassifier(str(tmp_path / "a.ckpt"))
    with torch.no_grad():
        assert torch.equal(network(IMAGES), module.eval()(IMAGES))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"class_path": "os.mkdir", "init_args": {"path": "PATH"}}, "os.mkdir is no torch module"),
        ({"class_path": "zeroth.networks.NoSuchNet"}, "NoSuchNet"),
        ({"class_path": "no.such.Net"}, "No module named 'no'"),
        ({"class_path": "zeroth.networks.DigitsCNN", "init_args": {"widht": 3}}, "widht"),
        ("DigitsCNN", "expected a class_path with init_args, got 'DigitsCNN'"),
        ({"class_path": "zeroth.networks.DigitsCNN", "init_args": {"width": 5}}, "do not fit DigitsCNN"),
    ],
)
def test_a_description_that_makes_no_network(network, message, tmp_path):
    if isinstance(network, dict) and "path" in network.get("init_args", {}):
        network["init_args"]["path"] = str(tmp_path / "ran")
    path = changed(tmp_path / "a.ckpt", network=network)
    with pytest.raises(ValueError, match=message) as fault:
        CheckpointClassifier(str(path))
    assert "a.ckpt" in str(fault.value) and not (tmp_path / "ran").exists()


def test_files_that_are_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt does not exist: train.py writes"):
        CheckpointClassifier(str(tmp_path / "none.ckpt"))
    for name, content in (("list", [1]), ("weights", {"w": torch.zeros(2)}), ("bare", {"hyper_parameters": {"a": 1}})):
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=f"checkpoint .*{name} was not written by train.py"):
            CheckpointClassifier(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"weights x\.pt do not fit DigitsCNN: .*Missing key"):
        fill(DigitsCNN(), {}, "x.pt")
