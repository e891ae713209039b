"""A substitute: exact labels, each asked once; the augmentation in closed form; the victim stays outside."""

import csv
import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import nn

from cli import AttackCLI, TrainCLI
from cli.victims import load_checkpoint
from datamodules import Digits
from lightning_modules import Substitute
from lightning_modules.substitute import augment
from tests.runs import ROOT, Counted, asked, digits_checkpoint, run
from tests.starts import start
from tests.victims import Linear, Logging, random_linear
from zeroth.networks import CarliniWagnerCNN, CheckpointClassifier, DigitsCNN

QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
    "num_sanity_val_steps": 0,
}
BOX = random_linear(10, 64)


def trained(victim: nn.Module, folder: Path | None = None, epochs: int = 3, **arguments) -> Substitute:
    """A substitute of 10 seeds and two doublings, an epoch a round."""
    torch.manual_seed(0)
    options = {"seeds": 10, "doublings": 2, "epochs_per_round": 1, "agreement": 30, **arguments}
    module = Substitute(DigitsCNN(width=2), victim, **options)
    trainer = pl.Trainer(max_epochs=epochs, enable_checkpointing=folder is not None, default_root_dir=folder, **QUIET)
    trainer.fit(module, module.training_data(Digits()))
    return module


def test_augmentation_of_a_linear_model_in_closed_form():
    """d log p_y / dx = w_y - sum_k p_k w_k; pixels that would leave [0, 1] stop at its border."""
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    weight[:, 4] = 0.0  # a pixel that tells nothing stays
    net = Linear(weight).train()
    images = torch.rand(7, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(7) % 4
    p = net(images).softmax(1)
    slope = (weight[labels].double() - p @ weight.double()).reshape(7, 1, 3, 3)
    moved = augment(net, images, labels, 0.3, batch_size=3)
    torch.testing.assert_close(moved, (images + 0.3 * slope.sign().float()).clamp(0, 1), rtol=0, atol=0)
    assert torch.equal(moved[:, 0, 1, 1], images[:, 0, 1, 1]) and net.training
    # A network so sure that p rounds to 1 still tells a direction.
    sure = Linear(100 * weight)
    far = augment(sure, images, sure(images).argmax(1), 0.01)
    assert float((far != images).float().mean()) > 0.5


def test_labels_are_counted_exactly_and_each_is_asked_once():
    victim = Logging(BOX)
    module = trained(victim)
    assert module.queries == 10 * 2**2 == 40 and victim.seen == 40 + 30  # and those that measure the agreement
    data = Digits().dataset("val")
    seeds = torch.stack([data[place]["image"] for place in range(10)])
    rest = torch.stack([data[place]["image"] for place in range(10, 40)])
    assert torch.equal(victim.asked[:30], rest) and torch.equal(victim.asked[30:40], seeds)
    assert torch.equal(victim.asked[30:], module._images)
    assert torch.equal(BOX(module._images).argmax(1), module._labels)
    # Each doubling moves every image of the set by one step; it is the whole set that doubles, not the last part.
    for half in (10, 20):
        step = (module._images[half : 2 * half] - module._images[:half]).abs()
        assert float(step.max()) == pytest.approx(0.1) and float((step > 0).float().mean()) > 0.2


def test_the_thesis_asks_4800_labels():
    written = yaml.safe_load((ROOT / "configs/substitute/mnist.yaml").read_text())
    arguments = written["model"]["init_args"]
    assert arguments["seeds"] * 2 ** arguments["doublings"] == 4800
    assert written["trainer"]["max_epochs"] == (arguments["doublings"] + 1) * arguments["epochs_per_round"]
    assert Substitute(DigitsCNN(), budget=4800).seeds == 150
    with pytest.raises(ValueError, match=r"budget=4799 labels, but seeds=150 and doublings=5 ask 4800"):
        Substitute(DigitsCNN(), budget=4799)


def test_epochs_after_the_last_round_ask_nothing():
    victim = Logging(BOX)
    assert trained(victim, epochs=5, agreement=0).queries == 40 and victim.seen == 40


class Trained(nn.Module):
    """A victim with weights and dropout, which refuses gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(64, 10), nn.Dropout(0.5)

    def forward(self, images):
        assert not torch.is_grad_enabled() and not self.training
        return self.drop(self.layer(images.flatten(1)))


def test_the_victim_is_in_no_checkpoint_and_gets_no_gradient(tmp_path):
    victim = Trained()
    before = victim.layer.weight.clone()
    module = trained(victim, tmp_path)
    assert all(name.startswith("network.") for name in module.state_dict())
    ours = {id(parameter) for parameter in module.network.parameters()}
    groups = module.configure_optimizers().param_groups
    assert {id(parameter) for group in groups for parameter in group["params"]} == ours
    assert torch.equal(before, victim.layer.weight) and victim.layer.weight.grad is None
    held = torch.load(module.trainer.checkpoint_callback.best_model_path)
    assert "victim" not in held["hyper_parameters"] and held["hyper_parameters"]["seeds"] == 10
    rebuilt = Substitute.load_from_checkpoint(module.trainer.checkpoint_callback.best_model_path)
    with pytest.raises(ValueError, match="victim must be given to train a Substitute"):
        pl.Trainer(max_epochs=3, enable_checkpointing=False, **QUIET).fit(rebuilt, rebuilt.training_data(Digits()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"doublings": -1}, "doublings must be at least 0, got -1"),
        ({"epochs_per_round": 0}, "epochs_per_round must be at least 1, got 0"),
        ({"agreement": -1}, "agreement must be at least 0, got -1"),
        ({"lambda_": 0.0}, r"lambda_ must be > 0 in \[0, 1\] pixels, got 0.0"),
        ({"seeds": 200}, "seeds=200 leaves no images to validate by: the validation split of Digits has 200"),
        ({"epochs": 2}, r"max_epochs must be at least \(doublings \+ 1\) \* epochs_per_round = 3, .* got 2"),
        ({"victim": CarliniWagnerCNN()}, r"Digits has image_shape \(1, 8, 8\), but CarliniWagnerCNN has \(1, 28, 28\)"),
        ({"victim": random_linear(12, 64, seed=3)}, "answered label 1[01], but the network has 10 classes"),
    ],
)
def test_what_is_refused(arguments, message):
    arguments = {"victim": Logging(BOX), **arguments}
    with pytest.raises(ValueError, match=message):
        trained(**arguments)
    assert getattr(arguments["victim"], "seen", 0) == 0


def test_other_data_than_its_own_is_refused():
    module = Substitute(DigitsCNN(), BOX, doublings=0, epochs_per_round=1)
    with pytest.raises(ValueError, match=r"fit a Substitute on its own set: trainer.fit\(module, module.training_data"):
        pl.Trainer(max_epochs=1, enable_checkpointing=False, **QUIET).fit(module, Digits())


def config_of(folder: Path, kill_after: int) -> Path:
    """A substitute of 20 seeds and two doublings of a victim that counts for itself."""
    victim = {"class_path": "tests.runs.Counted", "init_args": {"log": str(folder / "log"), "kill_after": kill_after}}
    options = {"seeds": 20, "doublings": 2, "epochs_per_round": 2, "agreement": 40}
    network = {"class_path": "DigitsCNN", "init_args": {"width": 2}}
    written = {
        "model": {"class_path": "Substitute", "init_args": {"network": network, "victim": victim, **options}},
        "data": {"class_path": "Digits"},
        "trainer": {"max_epochs": 6, "enable_progress_bar": False},
        "run": {"name": "it", "root": str(folder), "wandb": "disabled"},
    }
    folder.mkdir()
    (folder / "it.yaml").write_text(yaml.safe_dump(written))
    return folder / "it.yaml"


def weights(folder: Path) -> dict:
    return torch.load(folder / "train-victim/it/checkpoints/last.ckpt")["state_dict"]


def test_a_killed_training_asks_nothing_twice_and_takes_the_same_steps(tmp_path):
    """Killed while the second doubling is asked: 40 + 20 + 20 labels are there, 40 are missing."""
    run(TrainCLI, "--config", config_of(tmp_path / "whole", 0))
    assert asked(tmp_path / "whole/log") == 80 + 40
    path = config_of(tmp_path / "killed", 100)
    assert start("train.py", "--config", path, KILL="1").returncode == -9
    assert asked(tmp_path / "killed/log") == 80
    run(TrainCLI, "--config", path)
    assert asked(tmp_path / "killed/log") == 80 + 40
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())
    # Once more: done, so nothing is asked.
    run(TrainCLI, "--config", path)
    assert asked(tmp_path / "killed/log") == 80 + 40
    # Its last epoch is its best; it is attacked, and crafts, as any checkpoint.
    best = tmp_path / "whole/train-victim/it/checkpoints/best.ckpt"
    assert torch.load(best)["epoch"] == 5 and load_checkpoint(best)[1]["class_path"].endswith("Digits")
    assert CheckpointClassifier(str(best)).num_classes == 10
    figures = list((tmp_path / "whole/train-victim/it/csv").glob("*/metrics.csv"))
    rows = list(csv.DictReader(figures[0].open()))
    assert [float(row["queries"]) for row in rows if row["queries"]] == [20, 20, 40, 40, 80, 80]
    assert all(0 <= float(row["val_agreement"]) <= 1 for row in rows if row["val_agreement"])
    surrogates = f"[{{class_path: CheckpointClassifier, init_args: {{checkpoint: {best}}}}}]"
    words = ("--attack", ROOT / "configs/attack/transfer_fgsm.yaml", "--attack.surrogates", surrogates)
    words += ("--run.root", tmp_path, "--run.wandb", "disabled", "--images.count", "20", "--checkpoint", best)
    cli = run(AttackCLI, *words)
    rows = [json.loads(line) for line in (cli.folder / "attack.jsonl").read_text().splitlines()[1:]]
    # Crafted on itself: where that succeeds it falls to it.
    failed = {row["fail_reason"] for row in rows if not row["success"]}
    assert len(rows) == 20 and failed <= {"not transferred", "misclassified"}


def test_agreement_is_the_share_of_equal_answers():
    victim = Counted(log="/dev/null")
    module = trained(victim, agreement=500)
    data = Digits().dataset("val")
    images = torch.stack([data[place]["image"] for place in range(10, 200)])
    with torch.no_grad():
        same = module.eval()(images).argmax(1) == victim(images).argmax(1)
    told = module.trainer.callback_metrics
    assert float(told["val_agreement"]) == pytest.approx(float(same.float().mean()))
    assert float(told["queries"]) == 40 and 0 < float(told["val_accuracy"]) < 1


@pytest.mark.parametrize("path", sorted((ROOT / "configs/substitute").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_config_builds_a_substitute(path, tmp_path):
    victim = ("--model.init_args.victim.init_args.checkpoint", str(digits_checkpoint()))
    cli = TrainCLI(["--config", str(path), *victim, "--run.root", str(tmp_path), "--run.wandb", "disabled"])
    assert type(cli.model) is Substitute and cli.model.monitor == "epoch"
    assert cli.folder.name == f"{path.stem}_substitute"
    assert cli.trainer.max_epochs == (cli.model.doublings + 1) * cli.model.epochs_per_round
