"""Reconstruction and its defense: the errors are the paper's, the stability loss is by hand, every query is counted."""

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from cli import TrainCLI
from cli.victims import load_checkpoint
from datamodules import Digits, MeasuredDigits
from lightning_modules import DenoisedReconstruction, Reconstruction
from lightning_modules.reconstruction import image_errors
from tests.runs import asked, run
from zeroth.estimators import CGE, RGE
from zeroth.networks import DigitsAutoencoder, DigitsReconstructor, DnCNN

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
IMAGES, VALIDATION, TEST, FEATURES, PIXELS = 24, 200, 397, 16, 64


class Blur(nn.Module):
    """A reconstructor of known weights, smooth, whose books are kept outside of it.

    Args:
        log: file that gets one byte for each image answered.
    """

    image_shape = (1, 8, 8)

    def __init__(self, *, log: str) -> None:
        super().__init__()
        weight = torch.randn(PIXELS, PIXELS, generator=torch.Generator().manual_seed(1)) / 8
        self.weight, self.log = nn.Parameter(weight), log

    def forward(self, images: Tensor) -> Tensor:
        with Path(self.log).open("ab") as file:
            file.write(b"." * len(images))
        return torch.tanh(images.flatten(1) @ self.weight).view_as(images)


def test_the_errors_are_those_of_numpy():
    """Roots of each image's mean square; the similarity of constants a and b is (2ab + c) / (a^2 + b^2 + c)."""
    generator = torch.Generator().manual_seed(0)
    answers, originals = (torch.rand(7, 2, 12, 12, generator=generator) for _ in range(2))
    rmse, ssim = image_errors(answers, originals)
    one, two = answers.numpy().astype(float), originals.numpy().astype(float)
    np.testing.assert_allclose(rmse.numpy(), np.sqrt(((one - two) ** 2).mean((1, 2, 3))), rtol=1e-5)
    assert ssim.shape == (7,) and float(ssim.abs().max()) < 0.5
    for size in (1, 3):
        flat = [torch.full((size, 1, 8, 8), level) for level in (0.3, 0.8)]
        rmse, ssim = image_errors(*flat)
        assert rmse.tolist() == pytest.approx([0.5] * size)
        assert ssim.tolist() == pytest.approx([(2 * 0.24 + 1e-4) / (0.09 + 0.64 + 1e-4)] * size, abs=1e-3)
    assert image_errors(answers, answers)[1].tolist() == pytest.approx([1.0] * 7)


def test_a_reconstructor_learns_and_its_figures_are_means_over_images():
    torch.manual_seed(0)
    module = Reconstruction(DigitsReconstructor(), optimizer=lambda p: torch.optim.Adam(p, lr=1e-2))
    data = MeasuredDigits(batch_size=90)  # 200 = 90 + 90 + 20: means over batches would weigh the last one wrongly
    trainer = pl.Trainer(max_epochs=6, enable_checkpointing=False, **QUIET)
    trainer.fit(module, data)
    items = list(data.dataset("val"))
    images, originals = (torch.stack([item[name] for item in items]) for name in ("image", "original"))
    module.eval()
    with torch.no_grad():
        rmse, ssim = image_errors(module(images), originals)
    told = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert told["val_rmse"] == pytest.approx(float(rmse.mean()), abs=1e-5)
    assert told["val_ssim"] == pytest.approx(float(ssim.mean()), abs=1e-5)
    mean = originals.mean(0).expand_as(originals)
    assert (
        told["val_rmse"]
        < float(image_errors(mean, originals)[0].mean())
        < float(image_errors(images, originals)[0].mean())
    )
    assert (module.monitor, module.monitor_mode, module.job) == ("val_rmse", "min", "train-victim")


def module_of(log: Path, **arguments) -> DenoisedReconstruction:
    torch.manual_seed(0)
    denoiser = arguments.pop("denoiser", None) or DnCNN(channels=1, depth=3, width=4)
    arguments = {"optimizer": lambda p: torch.optim.Adam(p, lr=1e-2), "denoising_weight": 0.0, **arguments}
    return DenoisedReconstruction(denoiser, Blur(log=str(log)), train_images=IMAGES, **arguments)


def fitted(module: pl.LightningModule, epochs: int = 1, data: pl.LightningDataModule | None = None, **arguments):
    trainer = pl.Trainer(max_epochs=epochs, enable_checkpointing=False, **QUIET, **arguments)
    trainer.fit(module, module.training_data(data or MeasuredDigits(batch_size=10)))
    return trainer


@pytest.mark.parametrize(
    ("estimator", "encoded", "each"),
    [
        (None, False, 1),
        (RGE(q=5, mu=0.005), False, 6),
        (None, True, 1),
        (CGE(mu=0.005), True, FEATURES + 1),
    ],
    ids=["FO-DS", "ZO-DS", "FO-AE-DS", "ZO-AE-DS"],
)
def test_every_query_of_the_four_methods_is_counted(estimator, encoded, each, tmp_path):
    log = tmp_path / "log"
    module = module_of(log, estimator=estimator, autoencoder=DigitsAutoencoder() if encoded else None, max_batch=50)
    before = {name: value.clone() for name, value in module.named_parameters()}
    trainer = fitted(module, epochs=2)
    assert module.queries == asked(log) == IMAGES + 2 * (IMAGES * each + VALIDATION)
    moved = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
    assert any("denoiser" in name for name in moved) and any("encoder" in name for name in moved) == encoded
    assert not any("decoder" in name or name == "weight" for name in moved)
    assert module.defense.box.weight.grad is None
    trainer.test(module, MeasuredDigits())
    assert {"test_mse", "test_noisy_rmse", "test_noisy_ssim", "test_rmse", "test_ssim"} <= set(trainer.callback_metrics)


def test_the_stability_loss_is_the_error_against_the_boxs_own_answers(tmp_path):
    """w MSE of the denoiser + gamma MSE(box(denoised), box(clean input)); the true images have no part in it."""
    module, seen = module_of(tmp_path / "log", denoising_weight=3.0, stability_weight=0.5), []
    module.defense.denoiser.register_forward_hook(lambda _, given, back: seen.append((given[0].detach(), back)))
    losses, batches = [], []
    module.on_before_backward = lambda loss: losses.append(loss.detach())  # type: ignore[method-assign]
    module.on_train_batch_start = lambda batch, _: batches.append(batch)  # type: ignore[method-assign]
    fitted(module, max_steps=1, num_sanity_val_steps=0, limit_val_batches=0)
    (noisy, denoised), inputs, box = seen[-1], batches[0]["image"], module.defense.box
    assert float((noisy - inputs).std()) == pytest.approx(0.25, rel=0.1)  # around the back-projection
    with torch.no_grad():
        expected = 3.0 * (denoised - inputs).square().mean() + 0.5 * (box(denoised) - box(inputs)).square().mean()
        wrong = 3.0 * F.mse_loss(denoised, inputs) + 0.5 * F.mse_loss(box(denoised), batches[0]["original"])
    torch.testing.assert_close(losses[0], expected)
    assert abs(float(wrong - expected)) > 1e-3


def test_central_differences_take_the_step_of_the_true_gradient(tmp_path):
    both: dict[str, dict[str, Tensor]] = {}
    for name, estimator in (("first", None), ("central", CGE(mu=1e-2, scheme="central"))):
        torch.manual_seed(5)
        denoiser = DnCNN(channels=1, depth=3, width=4)
        nn.init.normal_(list(denoiser.parameters())[-1], std=0.1)  # which begins as the identity
        module, kept = module_of(tmp_path / "log", denoiser=denoiser, estimator=estimator), {}

        def keep(module=module, kept=kept) -> None:
            kept.update({n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None})

        module.on_after_backward = keep  # type: ignore[method-assign]
        fitted(module, max_steps=1, limit_val_batches=0)
        both[name] = kept
    assert both["first"].keys() == both["central"].keys() and len(both["first"]) > 4
    for name, value in both["first"].items():
        assert float((both["central"][name] - value).norm()) < 5e-3 * float(value.norm())


def config_of(folder: Path, epochs: int, **arguments) -> Path:
    options = {
        "denoiser": {"class_path": "DnCNN", "init_args": {"channels": 1, "depth": 3, "width": 4}},
        "victim": {
            "class_path": "tests.lightning_modules.test_reconstruction.Blur",
            "init_args": {"log": str(folder / "log")},
        },
        "autoencoder": {"class_path": "DigitsAutoencoder"},
        "estimator": {"class_path": "RGE", "init_args": {"q": 4, "mu": 0.005}},
        "train_images": IMAGES,
        **arguments,
    }
    written = {
        "model": {"class_path": "DenoisedReconstruction", "init_args": options},
        "data": {"class_path": "MeasuredDigits", "init_args": {"batch_size": 10}},
        "trainer": {"max_epochs": epochs, "enable_progress_bar": False},
        "run": {"name": "it", "root": str(folder), "wandb": "disabled"},
    }
    folder.mkdir(exist_ok=True)
    (folder / "it.yaml").write_text(yaml.safe_dump(written))
    return folder / "it.yaml"


def test_a_checkpoint_goes_on_with_the_answers_that_were_bought(tmp_path):
    """Two epochs, then a third: nothing is asked again. The file holds the answers of the 24 images alone."""
    run(TrainCLI, "--config", config_of(tmp_path / "whole", 3))
    path, words = config_of(tmp_path / "cut", 3), ("--trainer.limit_train_batches", "1.0")
    last = tmp_path / "cut/train-defense/it/checkpoints/last.ckpt"

    class Stop(TrainCLI):
        def instantiate_trainer(self, **kwargs):
            trainer = super().instantiate_trainer(**kwargs)
            trainer.fit_loop.max_epochs = 2
            return trainer

    run(Stop, "--config", path, *words)
    held = torch.load(last)["defense"]["targets"]
    assert held["answers"].shape == (IMAGES, 1, 8, 8) and len(held["rows"]) == IMAGES < held["size"] <= 1797
    run(TrainCLI, "--config", path, *words)
    whole, cut = torch.load(tmp_path / "whole/train-defense/it/checkpoints/last.ckpt"), torch.load(last)
    assert all(torch.equal(value, cut["state_dict"][name]) for name, value in whole["state_dict"].items())
    epoch = IMAGES * 5 + VALIDATION
    assert whole["defense"]["queries"] == cut["defense"]["queries"] == IMAGES + 3 * epoch
    assert asked(tmp_path / "cut/log") == IMAGES + 3 * epoch + 2 * 2 * TEST  # each start ends with a test
    module, data = load_checkpoint(last)
    assert isinstance(module, DenoisedReconstruction) and data["class_path"].endswith("MeasuredDigits")
    inputs = torch.stack([MeasuredDigits().dataset("test")[row]["image"] for row in range(3)])
    with torch.no_grad():
        expected = module.defense.box(module.defense.autoencoder(module.defense.denoiser(inputs)))
        torch.testing.assert_close(module(inputs), expected)


def test_images_that_were_not_measured_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"these images were not measured, .* such as MeasuredMNIST"):
        pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET).fit(
            Reconstruction(DigitsReconstructor()), Digits()
        )
    with pytest.raises(ValueError, match="these images were not measured"):
        fitted(module_of(tmp_path / "log"), data=Digits())
    assert (module_of(tmp_path / "log").monitor, module_of(tmp_path / "log").monitor_mode) == ("val_noisy_rmse", "min")
    alone = module_of(tmp_path / "log", denoising_weight=1.0, stability_weight=0.0)
    assert (alone.monitor, alone.monitor_mode) == ("val_mse", "min")
