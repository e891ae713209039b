"""The reconstructor of a checkpoint: the network that was trained, closed to training; and the small one for digits."""

import pytest
import torch

from cli import TrainCLI
from tests.networks.counting import parameters
from tests.runs import QUIET, digits_checkpoint, run
from zeroth.networks import CheckpointReconstructor, DigitsReconstructor

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_it_answers_as_the_network_that_was_trained(tmp_path):
    words = ("--run.root", tmp_path, *QUIET, "--trainer.max_epochs", "1")
    cli = run(TrainCLI, "--config", "configs/victim/digits_reconstruction.yaml", *words)
    file = cli.folder / "checkpoints" / "best.ckpt"
    assert cli.folder == tmp_path / "train-victim" / "digits_reconstruction"
    box = CheckpointReconstructor(str(file))
    box.train()
    state = torch.load(file)["state_dict"]
    again = DigitsReconstructor()
    again.load_state_dict({name.removeprefix("network."): v for name, v in state.items() if "network" in name})
    assert torch.equal(box(IMAGES), again(IMAGES)) and box.image_shape == (1, 8, 8)
    assert not box.training and not any(parameter.requires_grad for parameter in box.parameters())
    asked = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(box(asked).sum(), asked)
    assert float(gradient.abs().sum()) > 0


def test_a_classifier_is_refused():
    file = digits_checkpoint()
    with pytest.raises(ValueError, match=r"holds a DigitsCNN, which answers an image by \(1, 10\) and not by an image"):
        CheckpointReconstructor(str(file))
    with pytest.raises(FileNotFoundError, match=r"nothing\.ckpt does not exist"):
        CheckpointReconstructor("nothing.ckpt")


def test_the_digits_reconstructor():
    network = DigitsReconstructor()
    layers = [(1, 16, 9), (16, 32, 16), (32, 32, 16), (32, 32, 16), (32, 1, 16)]  # channels in and out, kernel
    assert parameters(network) == sum(a * b * kernel + b for a, b, kernel in layers)
    answered = network(IMAGES)
    assert answered.shape == IMAGES.shape and float(answered.detach().abs().max()) < 1
    with pytest.raises(ValueError, match=r"takes back-projections of shape \(1, 8, 8\), got \(1, 9, 9\)"):
        network(torch.zeros(1, 1, 9, 9))
