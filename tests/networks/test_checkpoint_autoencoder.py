"""The autoencoder of a checkpoint: same answers, trained on like any module, what is none is refused by name."""

from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_modules.hyperparameters import describe
from zeroth.networks import CheckpointAutoencoder, DigitsAutoencoder, DigitsCNN, MNISTAutoencoder

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def saved(network: nn.Module, path: Path) -> str:
    """Write what a system of train.py that trains this network writes, as far as it is read."""
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    settings = {"_class_path": "lightning_modules.autoencoder.Autoencoder", "network": describe(network)}
    torch.save({"state_dict": state | {"val_mse.total": torch.zeros(())}, "hyper_parameters": settings}, path)
    return str(path)


def test_it_is_the_trained_autoencoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = DigitsAutoencoder()
    network = CheckpointAutoencoder(path := saved(trained, tmp_path / "best.ckpt"))
    assert type(network.network) is DigitsAutoencoder
    with torch.no_grad():
        assert torch.equal(network(IMAGES), trained(IMAGES))
        assert torch.equal(network.encoder(IMAGES), z := trained.encoder(IMAGES))
        assert torch.equal(network.decoder(z), trained.decoder(z))
    assert (network.image_shape, network.latent_shape, network.features) == ((1, 8, 8), (16, 1, 1), 16)
    assert describe(network) == {
        "class_path": "zeroth.networks.checkpoint_autoencoder.CheckpointAutoencoder",
        "init_args": {"checkpoint": path},
    }


def test_each_weight_is_there_once_and_can_be_trained(tmp_path: Path) -> None:
    network = CheckpointAutoencoder(saved(DigitsAutoencoder(), tmp_path / "best.ckpt"))
    assert all(part.training for part in network.modules())
    assert list(network.state_dict()) == [f"network.{name}" for name in DigitsAutoencoder().state_dict()]
    network.decoder.requires_grad_(False)
    network(IMAGES).sum().backward()
    took = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert took == {f"network.encoder.{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias")}
    before = network.encoder(IMAGES)
    with torch.no_grad():
        network.encoder[-2].bias += 1.0
    assert not torch.equal(network.encoder(IMAGES), before)


def test_the_shape_of_maps_stays_with_the_flat_code(tmp_path: Path) -> None:
    network = CheckpointAutoencoder(saved(MNISTAutoencoder(), tmp_path / "best.ckpt"))
    assert (network.latent_shape, network.features, network.image_shape) == ((12, 4, 4), 192, (1, 28, 28))


class Own(nn.Module):
    """A user's own: linear, with a BatchNorm, of sizes that may not fit."""

    def __init__(self, *, given: int = 12, taken: int = 12, side: int = 8, made: int = 8, flat: bool = True) -> None:
        super().__init__()
        self.given, self.taken, self.side, self.made, self.flat = given, taken, side, made, flat
        self.image_shape = [1, side, side]
        ends = [] if flat else [nn.Unflatten(1, (given, 1, 1))]
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, given), nn.BatchNorm1d(given), *ends)
        self.decoder = nn.Sequential(nn.Linear(taken, made * made), nn.Unflatten(1, (1, made, made)))


def test_a_module_of_ones_own_tells_its_code_by_an_image(tmp_path: Path) -> None:
    own = Own()
    own.encoder[2].running_mean.fill_(0.25)
    network = CheckpointAutoencoder(saved(own, tmp_path / "own.ckpt"))
    assert (network.features, network.latent_shape, network.image_shape) == (12, (12, 1, 1), (1, 8, 8))
    # The image that was tried has left no trace.
    assert network.encoder[2].running_mean.unique().tolist() == [0.25]
    assert network.encoder[2].num_batches_tracked == 0 and network.encoder[2].training


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"taken": 16},
            r"its encoder and decoder do not fit: for images of shape \(1, 8, 8\) the encoder gives d_z = 12, "
            r"which the decoder does not take: .*1x12 and 16x64",
        ),
        ({"side": 7}, r"its encoder does not take images of shape \(1, 7, 7\): .*1x49 and 64x12"),
        ({"made": 9}, r".* the encoder gives d_z = 12, of which the decoder makes images of shape \(1, 9, 9\)"),
        ({"flat": False}, r"its encoder must give z of shape \(B, d_z\), got \(1, 12, 1, 1\): end it by nn\.Flatten"),
    ],
)
def test_halves_that_do_not_fit(sizes: dict[str, int], message: str, tmp_path: Path) -> None:
    path = saved(Own(**sizes), tmp_path / "own.ckpt")
    with pytest.raises(ValueError, match=rf"checkpoint .*own\.ckpt holds no usable Own: {message}"):
        CheckpointAutoencoder(path)


def test_a_checkpoint_that_holds_no_autoencoder(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"victim\.ckpt holds no autoencoder: its DigitsCNN has no encoder and no decoder; give one that train.py "
        r"wrote for the system Autoencoder, runs/train-autoencoder/<name>/checkpoints/best\.ckpt",
    ):
        CheckpointAutoencoder(saved(DigitsCNN(width=2), tmp_path / "victim.ckpt"))


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt does not exist: train.py writes runs/train-autoencoder/"):
        CheckpointAutoencoder(str(tmp_path / "none.ckpt"))
    torch.save(DigitsAutoencoder().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"checkpoint .*weights\.pt was not written by train\.py"):
        CheckpointAutoencoder(str(tmp_path / "weights.pt"))
    held = torch.load(saved(DigitsAutoencoder(), tmp_path / "best.ckpt"))
    del held["state_dict"]["network.decoder.0.bias"]
    torch.save(held, tmp_path / "part.ckpt")
    with pytest.raises(ValueError, match=r"weights .*part\.ckpt do not fit DigitsAutoencoder: .*decoder\.0\.bias"):
        CheckpointAutoencoder(str(tmp_path / "part.ckpt"))
