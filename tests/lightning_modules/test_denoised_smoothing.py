"""Denoised smoothing: what is asked is counted, FO and ZO agree, the box stays a box, a killed training goes on."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from datamodules import Digits
from lightning_modules import DenoisedSmoothing
from tests.runs import Counted, asked
from zeroth.estimators import CGE, RGE
from zeroth.networks import CarliniWagnerCNN, DigitsAutoencoder, DigitsCNN, DnCNN, MNISTAutoencoder

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
IMAGES, VALIDATION, FEATURES, PIXELS = 24, 200, 16, 64


def module_of(box: nn.Module, **arguments) -> DenoisedSmoothing:
    torch.manual_seed(0)
    denoiser = arguments.pop("denoiser", None) or DnCNN(channels=1, depth=3, width=4)
    optimizer = arguments.pop("optimizer", lambda p: torch.optim.Adam(p, lr=1e-2))
    return DenoisedSmoothing(denoiser, box, optimizer=optimizer, train_images=IMAGES, **arguments)


def fitted(module: DenoisedSmoothing, epochs: int = 1, folder: Path | None = None, **arguments) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=epochs, enable_checkpointing=folder is not None, default_root_dir=folder, **QUIET, **arguments
    )
    trainer.fit(module, module.training_data(Digits(batch_size=10)))
    return trainer


@pytest.mark.parametrize(
    ("estimator", "encoded", "each"),
    [
        (None, False, 1),
        (None, True, 1),
        (RGE(q=5, mu=0.005), False, 6),
        (RGE(q=5, mu=0.005), True, 6),
        (RGE(q=5, mu=0.005, antithetic=True), True, 10),
        (CGE(mu=0.005), True, FEATURES + 1),
        (CGE(mu=0.005, scheme="central"), True, 2 * FEATURES),
        (CGE(mu=0.005), False, PIXELS + 1),
    ],
    ids=["FO-DS", "FO-AE-DS", "ZO-DS", "RGE", "antithetic", "CGE", "central", "pixels"],
)
def test_every_query_is_counted(estimator, encoded, each, tmp_path):
    """A label of each image at the start; then an epoch asks ``each`` an image, and validation one."""
    box = Counted(log=str(tmp_path / "log"))
    module = module_of(box, estimator=estimator, autoencoder=DigitsAutoencoder() if encoded else None, max_batch=50)
    fitted(module, epochs=2)
    assert module.queries == asked(tmp_path / "log") == IMAGES + 2 * (IMAGES * each + VALIDATION)


def test_pre_training_of_the_denoiser_asks_nothing_and_denoises(tmp_path):
    module = module_of(Counted(log=str(tmp_path / "log")), stability_weight=0.0, denoiser=DnCNN(channels=1, depth=3))
    trainer = fitted(module, epochs=8)
    assert module.queries == asked(tmp_path / "log") == 0
    assert (module.monitor, module.monitor_mode) == ("val_mse", "min")
    assert float(trainer.callback_metrics["val_mse"]) < 0.9 * 0.25**2  # an identity leaves the noise: sigma^2


class Smooth(nn.Module):
    """An autoencoder without kinks, so that differences tend to derivatives."""

    image_shape, features = (1, 8, 8), 8

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 8), nn.Softplus())
        self.decoder = nn.Sequential(nn.Linear(8, PIXELS), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))


def gradients(module: DenoisedSmoothing) -> dict[str, torch.Tensor]:
    """Gradients of the first step of a training, by parameter."""
    kept: dict[str, torch.Tensor] = {}

    def keep(*_: object) -> None:
        kept.update({name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None})

    module.on_after_backward = keep  # type: ignore[method-assign]
    fitted(module, max_steps=1)
    return kept


def test_one_line_turns_first_order_into_zeroth_order(tmp_path):
    """From the same noise the step by central differences is autograd's, to the order of mu^2."""
    box = Counted(log=str(tmp_path / "log"))
    net = DnCNN(channels=1, depth=3, width=4)
    nn.init.normal_(list(net.parameters())[-1], std=0.1)  # which begins as the identity
    state, both = net.state_dict(), {}
    for name, estimator in (("first", None), ("central", CGE(mu=1e-2, scheme="central"))):
        own = DnCNN(channels=1, depth=3, width=4)
        own.load_state_dict(state)
        torch.manual_seed(1)
        module = module_of(box, denoiser=own, autoencoder=Smooth(), estimator=estimator, denoising_weight=0.0)
        both[name] = gradients(module)
    assert both["first"].keys() == both["central"].keys() and any("encoder" in name for name in both["first"])
    assert not any("decoder" in name for name in both["first"])
    for name, value in both["first"].items():
        assert float(value.norm()) > 0 and float((both["central"][name] - value).norm()) < 2e-3 * float(value.norm())


def test_the_loss_is_that_of_equation_2(tmp_path):
    """w MSE + gamma CE with the box's own labels as targets, under the noise that the images are given."""
    box, seen = Counted(log=str(tmp_path / "log")), []
    module = module_of(box, denoising_weight=3.0, stability_weight=0.5)
    module.defense.denoiser.register_forward_hook(
        lambda _, given, back: seen.append((given[0].detach(), back.detach()))
    )
    losses, batches = [], []
    module.on_before_backward = lambda loss: losses.append(loss.detach())  # type: ignore[method-assign]
    module.on_train_batch_start = lambda batch, _: batches.append(batch)  # type: ignore[method-assign]
    fitted(module, max_steps=1, num_sanity_val_steps=0, limit_val_batches=0)
    (noisy, denoised), images = seen[-1], batches[0]["image"]
    assert float((noisy - images).std()) == pytest.approx(0.25, rel=0.1)  # 640 draws: 3 % standard error
    targets = box(images).argmax(1)
    expected = 3.0 * F.mse_loss(denoised, images) + 0.5 * F.cross_entropy(box(denoised).float(), targets)
    torch.testing.assert_close(losses[0], expected)


@pytest.mark.parametrize(
    ("trained", "moving"),
    [
        ("denoiser", {"denoiser"}),
        ("encoder", {"denoiser", "encoder"}),
        ("autoencoder", {"denoiser", "encoder", "decoder"}),
    ],
)
def test_what_is_trained_moves_and_nothing_else(trained, moving):
    torch.manual_seed(3)
    box = DigitsCNN(width=2)
    module = module_of(box, autoencoder=DigitsAutoencoder(), trained=trained)
    before = {name: value.clone() for name, value in [*module.named_parameters(), *box.named_parameters()]}
    fitted(module)
    now = dict([*module.named_parameters(), *box.named_parameters()])
    moved = {name for name, value in before.items() if not torch.equal(value, now[name])}
    for part in ("denoiser", "encoder", "decoder"):
        assert any(f".{part}." in name for name in moved) == (part in moving)
    assert not any(name in moved for name, _ in box.named_parameters())
    assert all(value.grad is None for value in box.parameters())
    assert not any(value is other for value in module.parameters() for other in box.parameters())


def test_a_budget_that_pays_for_no_epoch_asks_nothing(tmp_path):
    budget = IMAGES + IMAGES + VALIDATION - 1
    with pytest.raises(
        ValueError, match=rf"budget={budget} queries does not suffice .* come to {budget + 1}: raise it"
    ):
        fitted(module_of(Counted(log=str(tmp_path / "log")), budget=budget))
    assert asked(tmp_path / "log") == 0


def test_a_defense_made_in_python_says_what_its_checkpoint_lacks(tmp_path):
    """The estimator comes back; the box does not, whose weights are in no file."""
    with pytest.warns(UserWarning, match="the weights of DigitsCNN are in no file: .* victim="):
        module = module_of(DigitsCNN(width=2), estimator=RGE(q=3, mu=0.01))
    trainer = fitted(module)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    kept = torch.load(tmp_path / "x.ckpt")["hyper_parameters"]
    assert "victim" not in kept
    assert kept["estimator"]["class_path"] == "zeroth.estimators.rge.RGE" and kept["estimator"]["init_args"]["q"] == 3


def test_bad_input_is_named_before_work_is_lost():
    box = DigitsCNN(width=2)
    for arguments, message in (
        ({"sigma": 0.0}, r"sigma must be > 0 in \[0, 1\] pixels, got 0.0"),
        ({"denoising_weight": -1.0}, "denoising_weight must be 0 or more, got -1.0"),
        ({"denoising_weight": 0.0, "stability_weight": 0.0}, "are both 0: set one, or there is nothing to train"),
        ({"trained": "decoder"}, "trained must be one of denoiser, encoder, autoencoder, got 'decoder'"),
        ({"trained": "autoencoder"}, "trained='autoencoder' needs an autoencoder and the box's true gradient"),
        ({"budget": 0}, "budget must be at least 1 or null, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            module_of(box, **arguments)
    with pytest.raises(
        ValueError, match=r"MNISTAutoencoder is for images \(1, 28, 28\), DigitsCNN for images \(1, 8, 8\)"
    ):
        module_of(box, autoencoder=MNISTAutoencoder())
    with pytest.raises(ValueError, match=r"has image_shape \(1, 8, 8\), but DenoisedSmoothing has \(1, 28, 28\)"):
        fitted(module_of(CarliniWagnerCNN(), autoencoder=MNISTAutoencoder()))
    with pytest.raises(ValueError, match=r"train_images=24, but .* has 20 training images"):
        module = module_of(box)
        pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET).fit(
            module, module.training_data(Digits(val_size=1380))
        )


def test_a_denoiser_that_diverges_names_its_batch():
    """One step ruins the weights; the box is not asked about what they make."""
    torch.manual_seed(0)
    box = DigitsCNN(width=2)

    def ruined(parameters):
        return torch.optim.SGD(parameters, lr=float("inf"))

    with pytest.raises(
        FloatingPointError, match=r"epoch 0, dataset indices \[\d+, .* images are NaN or infinite in 10 of"
    ):
        fitted(module_of(box, optimizer=ruined), epochs=3)


def test_frozen_halves_stay_in_eval_mode():
    class Normed(Smooth):
        def __init__(self) -> None:
            super().__init__()
            self.decoder.insert(1, nn.BatchNorm1d(PIXELS))

    coder = Normed()
    before = coder.decoder[1].running_mean.clone()
    fitted(module_of(DigitsCNN(width=2), autoencoder=coder, estimator=CGE(mu=0.01)))
    assert torch.equal(coder.decoder[1].running_mean, before) and not coder.decoder[1].training
