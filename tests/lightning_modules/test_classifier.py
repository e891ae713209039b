"""What the classifier trains on, what it reports, when it stops."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules import Digits
from lightning_modules import Classifier
from lightning_modules.classifier import check_fit
from zeroth.networks import CarliniWagnerCNN, DigitsCNN

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


class Recorder(nn.Module):
    """Right on images whose first pixel is below 3 / 16, class 0 else; keeps what it is asked."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.asked: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.asked.append(images.detach().clone())
        return self.scale * F.one_hot((images.flatten(1).sum(1) > 19).long(), 10).float()


def batch_of(images: Tensor, label: int = 3) -> dict[str, Tensor]:
    count = len(images)
    return {"image": images, "label": torch.full((count,), label), "index": torch.arange(count)}


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_the_loss_is_smoothed_cross_entropy(smoothing: float) -> None:
    torch.manual_seed(0)
    module = Classifier(DigitsCNN().eval(), label_smoothing=smoothing)
    batch = batch_of(torch.rand(6, 1, 8, 8))
    log_p = module(batch["image"]).log_softmax(1)
    # The target is (1 - s) one_hot + s / K.
    expected = -((1 - smoothing) * log_p[:, 3] + smoothing / 10 * log_p.sum(1)).mean()
    torch.testing.assert_close(module._answer(batch, noisy=False)[1], expected)


def test_training_noise_has_the_stated_deviation_and_is_not_clipped() -> None:
    torch.manual_seed(0)
    network = Recorder()
    module = Classifier(network, noise_sigma=0.25)
    images = torch.rand(500, 1, 8, 8)
    module.training_step(batch_of(images), 0)
    noise = network.asked[0] - images  # 32,000 draws: the standard error of the deviation is sigma / 253
    assert abs(noise.std().item() - 0.25) < 5 * 0.25 / 253
    assert abs(noise.mean().item()) < 5 * 0.25 / 179
    assert network.asked[0].min() < 0 and network.asked[0].max() > 1
    assert abs(torch.corrcoef(torch.stack([noise[:250].flatten(), noise[250:].flatten()]))[0, 1]) < 0.04


def test_without_noise_the_images_are_asked_as_they_are() -> None:
    network = Recorder()
    module = Classifier(network)
    images = torch.rand(5, 1, 8, 8)
    module.training_step(batch_of(images), 0)
    assert torch.equal(network.asked[0], images)


def test_reported_accuracies_are_the_share_of_right_answers() -> None:
    data = Digits(batch_size=50)  # the last batch is smaller: a mean of batch means would be off
    for split, name in (("val", "val_accuracy"), ("test", "test_accuracy")):
        items = list(data.dataset(split))
        right = sum(item["label"] == int(item["image"].sum() > 19) for item in items)
        trainer = pl.Trainer(**QUIET)
        (report,) = getattr(trainer, {"val": "validate", "test": "test"}[split])(
            Classifier(Recorder()), data, verbose=False
        )
        assert 0 < right < len(items)
        assert report[name] == pytest.approx(right / len(items))
        assert f"{split}_noisy_accuracy" not in report


def test_noise_training_reports_clean_and_noisy_accuracy() -> None:
    network = Recorder()
    module = Classifier(network, noise_sigma=5.0)  # noise of sum 40: it decides the noisy answers
    (report,) = pl.Trainer(**QUIET).test(module, Digits(batch_size=397), verbose=False)
    (plain,) = pl.Trainer(**QUIET).test(Classifier(Recorder()), Digits(), verbose=False)
    clean, noisy = network.asked
    labels = torch.tensor([item["label"] for item in Digits().dataset("test")])
    assert report["test_accuracy"] == pytest.approx(plain["test_accuracy"])
    expected = ((noisy.flatten(1).sum(1) > 19).long() == labels).float().mean().item()
    assert report["test_noisy_accuracy"] == pytest.approx(expected)
    assert report["test_noisy_accuracy"] != report["test_accuracy"]
    assert abs((noisy - clean).std().item() - 5) < 0.2
    assert (module.monitor, Classifier(Recorder()).monitor) == ("val_noisy_accuracy", "val_accuracy")


def test_predictions_are_logits_in_file_order() -> None:
    module = Classifier(DigitsCNN())
    data = Digits(batch_size=100)
    logits = torch.cat(pl.Trainer(**QUIET).predict(module, data))
    images = torch.stack([item["image"] for item in data.dataset("test")])
    with torch.no_grad():
        torch.testing.assert_close(logits, module.eval()(images), rtol=1e-4, atol=1e-5)


def test_training_follows_the_schedule_and_the_optimizer_by_hand() -> None:
    """Two epochs of full-batch SGD with the rate halved an epoch, against the same steps written out."""
    torch.manual_seed(0)
    network = DigitsCNN(width=2)
    network.classifier[3] = nn.Identity()  # no dropout: the steps are deterministic
    start = {name: value.clone() for name, value in network.state_dict().items()}
    module = Classifier(
        network,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.1),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
    )
    data = Digits(batch_size=1200)
    pl.Trainer(max_epochs=2, limit_val_batches=0, **QUIET).fit(module, data)

    twin = DigitsCNN(width=2)
    twin.classifier[3] = nn.Identity()
    twin.load_state_dict(start)
    items = data.dataset("train").__getitems__(list(range(1200)))
    images, labels = torch.stack([i["image"] for i in items]), torch.tensor([i["label"] for i in items])
    for rate in (0.1, 0.05):
        gradients = torch.autograd.grad(F.cross_entropy(twin(images), labels), list(twin.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                parameter -= rate * gradient
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_schedule_by_steps_ticks_every_step() -> None:
    module = Classifier(
        DigitsCNN(width=2),
        optimizer=lambda params: torch.optim.SGD(params, lr=1.0),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        lr_interval="step",
    )
    pl.Trainer(max_steps=3, limit_val_batches=0, **QUIET).fit(module, Digits(batch_size=100))
    assert module.optimizers().param_groups[0]["lr"] == 0.5**3


def test_a_loss_that_is_not_finite_stops_with_the_batch_named() -> None:
    class Breaks(Recorder):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * (float("nan") if len(self.asked) == 3 else 1.0)

    data = Digits(batch_size=100)
    with pytest.raises(
        FloatingPointError, match=r"loss is nan at epoch 0, batch 2 \(dataset indices \[\d+, .*\.\.\.\)"
    ):
        pl.Trainer(max_epochs=1, num_sanity_val_steps=0, **QUIET).fit(Classifier(Breaks()), data)


def test_losses_looked_at_late_name_the_first_bad_batch() -> None:
    module = Classifier(Recorder())
    index = torch.tensor([4, 2])
    module._unchecked = [(n, torch.tensor(x), index) for n, x in enumerate([1.0, float("inf"), float("nan")])]
    with pytest.raises(FloatingPointError, match=r"loss is inf at epoch 0, batch 1 \(dataset indices \[4, 2\]\)"):
        module.on_train_epoch_end()
    module.on_train_epoch_end()  # looked at once


def test_compile_changes_no_name_in_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: calls.append(type(self)))
    module = Classifier(DigitsCNN(), compile=True)
    trainer = pl.Trainer(fast_dev_run=1, **QUIET)
    trainer.fit(module, Digits())
    trainer.test(module, Digits(), verbose=False)
    assert calls == [DigitsCNN]  # the network alone, once
    assert set(module.state_dict()) == set(Classifier(DigitsCNN()).state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"noise_sigma": -0.1}, "noise_sigma must be 0 or more, got -0.1"),
        ({"noise_sigma": float("nan")}, "noise_sigma must be 0 or more, got nan"),
        ({"lr_interval": "batch"}, "lr_interval must be epoch or step, got 'batch'"),
        ({"network": nn.Linear(64, 10)}, "Linear does not tell its number of classes: give num_classes"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classifier(**{"network": DigitsCNN(), **arguments})


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            DigitsCNN(num_classes=7),
            "Digits has num_classes 10, but DigitsCNN has 7",
        ),
        (
            CarliniWagnerCNN(),
            r"Digits has image_shape \(1, 8, 8\), but CarliniWagnerCNN has \(1, 28, 28\)",
        ),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused_at_the_start(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pl.Trainer(fast_dev_run=1, **QUIET).fit(Classifier(network), Digits())


def test_shapes_from_a_file_of_settings_fit_as_lists() -> None:
    network = nn.Identity()
    network.image_shape, network.num_classes = [1, 8, 8], 10
    check_fit(network, Digits())
    network.image_shape = [1, 8, 9]
    with pytest.raises(ValueError, match=r"image_shape \(1, 8, 8\), but Identity has \(1, 8, 9\).*such images$"):
        check_fit(network, Digits())
