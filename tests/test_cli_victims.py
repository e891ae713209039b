"""Victims that do not fit: exit code 2, or 1 where the victim itself fails, and one last line."""

import pytest
import torch

from cli import AttackCLI, CertifyCLI
from cli.victims import VictimOptions, build_victim
from lightning_modules import Classifier
from tests.runs import digits_checkpoint

NGD = ("--attack", "configs/attack/zo_ngd.yaml")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--victim", "DigitsCNN"], "victim.name 'DigitsCNN'"),
        (["--victim.state_dict", "net.pt"], "victim.state_dict 'net.pt'"),
        (["--victim.weights", "DEFAULT"], "victim.weights 'DEFAULT'"),
        (["--victim.init_args.width", "3"], "victim.init_args {'width': 3}"),
    ],
)
def test_a_checkpoint_is_the_whole_victim(last_line, words, told):
    line = last_line(AttackCLI, *NGD, "--checkpoint", "x.ckpt", *words)
    assert f"--checkpoint x.ckpt brings the whole victim, so {told} would not be used: leave out one" in line


class FiveClasses(torch.nn.Module):
    """Tells nothing of itself: what does not fit comes out at its first answer."""

    def forward(self, images):
        return images.flatten(1)[:, 2:7]


class OfOtherImages(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(784, 10))


@pytest.mark.parametrize(
    ("victim", "attacked", "certified", "code"),
    [
        ("CarliniWagnerCNN", *2 * ["Digits has image_shape (1, 8, 8), but CarliniWagnerCNN has (1, 28, 28): "], 2),
        (
            "tests.test_cli_victims.FiveClasses",
            "labels must lie in 0..4, the victim has 5 classes, got 9",
            "victim FiveClasses has 5 classes, the data has 10: choose other data, or a victim with as many classes",
            2,
        ),
        ("tests.test_cli_victims.OfOtherImages", *2 * ["images of shape (1, 8, 8): "], 1),
    ],
)
def test_a_victim_of_other_images_or_classes_is_refused(last_line, victim, attacked, certified, code):
    words = ("--victim", victim, "--data", "Digits")
    assert attacked in last_line(AttackCLI, *NGD, *words, code=code)
    assert certified in last_line(CertifyCLI, *words, code=code)


def test_the_classes_that_a_module_was_trained_with_count(last_line, tmp_path):
    """The network says nothing of its classes, the checkpoint's module does."""
    module = Classifier(FiveClasses(), num_classes=5)
    settings = {"network": {"class_path": "tests.test_cli_victims.FiveClasses"}, "num_classes": 5}
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": settings}, tmp_path / "five.ckpt")
    line = last_line(CertifyCLI, "--checkpoint", tmp_path / "five.ckpt", "--data", "Digits")
    assert "Digits has num_classes 10, but FiveClasses has 5: choose other data" in line


class Declared(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, images):
        logits = 9 * images.flatten(1)[:, 10:20]
        return {"logits": logits, "probabilities": logits.softmax(1), "log_probabilities": logits.log_softmax(1)}[
            self.kind
        ]


@pytest.mark.parametrize(
    ("kind", "declared", "message"),
    [
        ("probabilities", "logits", "return logits, but each row lies in [0, 1] and sums to 1: declare output='prob"),
        ("logits", "probabilities", "return probabilities, but its rows lie in [0, "),
        ("logits", "log_probabilities", "return log-probabilities, but exp of its rows sums to "),
    ],
)
def test_scores_that_are_not_as_declared(last_line, kind, declared, message):
    words = ["--victim", "tests.test_cli_victims.Declared", "--victim.init_args.kind", kind, "--data", "Digits"]
    line = last_line(AttackCLI, *NGD, *words, "--victim.output", declared, code=1)
    assert f"victim Declared was declared to {message}" in line


def test_unknown_victims_are_told_what_is_known(last_line):
    assert "victim: unknown name 'resnet19'; give a torchvision classifier (e.g. resnet18), one of" in last_line(
        AttackCLI, *NGD, "--victim", "resnet19", "--data", "Digits"
    )
    assert "victim: cannot import no.such.Net" in last_line(
        AttackCLI, *NGD, "--victim", "no.such.Net", "--data", "Digits"
    )


class Callable:
    """Pickled into a checkpoint: loading it the old way would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_checkpoints_that_cannot_be_used(last_line, tmp_path):
    whole = digits_checkpoint().read_bytes()
    bad = {name: tmp_path / f"{name}.ckpt" for name in ("missing", "short", "foreign", "text", "code", "unfit")}
    bad["short"].write_bytes(whole[: len(whole) // 2])
    bad["text"].write_text("no checkpoint at all")
    torch.save({"epoch": 1, "model": {"w": torch.zeros(2)}}, bad["foreign"])
    torch.save({"state_dict": {}, "hyper_parameters": {"x": Callable(tmp_path / "ran")}}, bad["code"])
    other = torch.load(digits_checkpoint(), weights_only=True)
    other["state_dict"].pop("network.features.0.weight")
    torch.save(other, bad["unfit"])
    told = {name: last_line(AttackCLI, *NGD, "--checkpoint", path) for name, path in bad.items()}
    assert "missing.ckpt does not exist: train.py writes" in told["missing"]
    assert "cannot be read: it is cut short or no torch checkpoint" in told["short"]
    assert "cannot be read" in told["text"]
    assert "was not written by train.py" in told["foreign"] and "--victim.state_dict FILE" in told["foreign"]
    assert "would run code of the file" in told["code"] and not (tmp_path / "ran").exists()
    assert "do not fit Classifier: " in told["unfit"] and "network.features.0.weight" in told["unfit"]


class Moody(torch.nn.Module):
    def __init__(self, *, fault: str):
        super().__init__()
        if fault == "building":
            raise RuntimeError("no room")

    def forward(self, images):
        raise KeyError("mood")


@pytest.mark.parametrize(
    ("fault", "message", "code"),
    [
        ("building", "could not be built with {'fault': 'building'}: no room", 2),
        ("asked", "victim Moody failed on 100 images of shape (1, 8, 8): KeyError: 'mood'", 1),
    ],
)
def test_a_victim_that_raises_is_named(last_line, fault, message, code):
    victim = ("--victim", "tests.test_cli_victims.Moody", "--victim.init_args.fault", fault, "--data", "Digits")
    assert message in last_line(AttackCLI, *NGD, *victim, code=code)


def test_weights_that_nothing_gives_are_drawn_by_the_seed():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, again, other = (build_victim(VictimOptions(name="DigitsCNN"), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    ours, same, another = (next(victim.parameters()) for victim in (first, again, other))
    assert torch.equal(ours, same) and not torch.equal(ours, another)


def test_files_that_are_no_weights_are_told(last_line, tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    words = ("--victim", "DigitsCNN", "--data", "Digits", "--victim.state_dict", tmp_path / "list.pt")
    assert "list.pt holds a list, not named weights" in last_line(AttackCLI, *NGD, *words)
    torch.save({"state_dict": {}, "hyper_parameters": {"_class_path": "os.system"}}, tmp_path / "evil.ckpt")
    line = last_line(AttackCLI, *NGD, "--checkpoint", tmp_path / "evil.ckpt")
    assert "evil.ckpt names a system that cannot be built: " in line
