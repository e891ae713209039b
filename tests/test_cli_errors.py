"""Bad input on the command line: exit code 2 and one last line that names the option, the value and the remedy."""

import pytest
import torch

from cli import AttackCLI, CertifyCLI, TrainCLI
from tests.runs import QUIET, digits_checkpoint, run

VICTIM = ("--victim", "DigitsCNN", "--data", "Digits")
NGD = ("--attack", "configs/attack/zo_ngd.yaml")


@pytest.fixture
def last_line(tmp_path, capsys):
    """Run a command that must fail; gives its last line."""

    def go(command, *words, code=2) -> str:
        with pytest.raises(SystemExit) as end:
            run(command, "--run.root", tmp_path, *QUIET, *words)
        captured = capsys.readouterr()
        assert end.value.code == code
        assert "Traceback" not in captured.err
        return captured.err.splitlines()[-1]

    return go


TRAINING = {
    "unknown option": (["--foo", "1"], "unknown option --foo"),
    "abbreviation": (["--trainer.max_epoch", "3"], "--trainer.max_epoch 3: did you mean --trainer.max_epochs?"),
    "wrong type": (["--trainer.max_epochs", "many"], "trainer.max_epochs: expected int, got many"),
    "unknown key of a class": (
        ["--data.batchsize", "3"],
        "Option 'batchsize' is not accepted; Digits takes batch_size,",
    ),
    "unknown dataset": (
        ["--data", "Digit", "--model", "Classifier"],
        "data: unknown class 'Digit'; known are CIFAR10, Digits,",
    ),
    "unknown network": (["--model.network", "Net"], "network: unknown class 'Net'; known are CIFARResNet,"),
    "unknown model": (
        ["--model", "Clasifier", "--data", "Digits"],
        "model: unknown class 'Clasifier'; known are Classifier",
    ),
    "missing config": (["--config", "nothing.yaml"], "nothing.yaml"),
    "bad value": (["--data.batch_size", "0"], "batch_size must be at least 1, got 0"),
    "choice": (["--run.wandb", "maybe"], "run.wandb: expected one of 'offline', 'online', 'disabled', got maybe"),
}


@pytest.mark.parametrize(("words", "message"), TRAINING.values(), ids=TRAINING)
def test_train(last_line, words, message):
    assert message in last_line(TrainCLI, *words)


ATTACK = {
    "unknown attack": (["--attack", "ZONG"], "attack: unknown class 'ZONG'; known are"),
    "missing attack file": (
        ["--attack", "configs/attack/no.yaml"],
        "attack: the file configs/attack/no.yaml does not exist",
    ),
    "no attack": ([], "option --attack is required"),
    "unknown hyperparameter": (
        [*NGD, "--attack.stepsize", "1"],
        "Option 'stepsize' is not accepted; ZONGD takes epsilon,",
    ),
    "wrong type": ([*NGD, "--attack.samples", "many"], "samples: expected int, got many"),
    "negative epsilon": ([*NGD, "--attack.epsilon=-0.1"], "epsilon"),
    "budget 0": ([*NGD, "--budget", "0"], "budget must be at least 1 query an image, got 0"),
    "cap 0": ([*NGD, "--total-queries", "0"], "total_queries must be at least 1 or null for no cap, got 0"),
    "cap and shards": ([*NGD, "--total-queries", "9", "--shard", "1/2"], "leave out --shard"),
    "targeted": ([*NGD, "--targeted", "worst"], "targeted: expected one of 'none', 'next', 'random', got worst"),
    "shard": ([*NGD, "--shard", "3/2"], "shard must be k/n with 1 <= k <= n, e.g. 1/4, got '3/2'"),
    "too many images": ([*NGD, "--images.count", "400"], "leaves 397 images of the 397 in split 'test'"),
    "split": ([*NGD, "--images.split", "all"], "images.split: expected one of 'train', 'val', 'test', got all"),
    "output": ([*NGD, "--victim.output", "scores"], "victim.output: expected one of 'logits',"),
    "not as declared": (
        [*NGD, "--victim.output", "probabilities"],
        "victim DigitsCNN was declared to return probabilities",
    ),
    "init_args": (
        [*NGD, "--victim.init_args.depth", "3"],
        "victim DigitsCNN does not take victim.init_args {'depth': 3}",
    ),
    "weights": ([*NGD, "--victim.weights", "DEFAULT"], "victim.weights 'DEFAULT' is for torchvision's models"),
    "state_dict": ([*NGD, "--victim.state_dict", "no.pt"], "checkpoint no.pt does not exist"),
}


@pytest.mark.parametrize(("words", "message"), ATTACK.values(), ids=ATTACK)
def test_attack(last_line, words, message):
    code = 1 if "declared to return" in message else 2
    assert message in last_line(AttackCLI, *VICTIM, *words, code=code)


CERTIFY = {
    "sigma 0": (["--certify.sigma", "0"], "certify.sigma must be positive ([0, 1] pixels, e.g. 0.25), got 0.0"),
    "alpha 0": (["--certify.alpha", "0"], "certify.alpha must lie in (0, 1), e.g. 0.001, got 0.0"),
    "alpha 1": (["--certify.alpha", "1"], "certify.alpha must lie in (0, 1), e.g. 0.001, got 1.0"),
    "no samples": (["--certify.n", "0"], "certify.n0 and certify.n must be at least 1, got 100 and 0"),
    "batch_size 0": (["--batch_size", "0"], "batch_size must be at least 1, got 0"),
}


@pytest.mark.parametrize(("words", "message"), CERTIFY.values(), ids=CERTIFY)
def test_certify(last_line, words, message):
    assert message in last_line(CertifyCLI, *VICTIM, *words)


def test_a_victim_is_needed_and_only_one(last_line):
    message = "give a victim: either --checkpoint FILE of train.py, or --victim NAME"
    assert message in last_line(AttackCLI, *NGD)
    assert message in last_line(AttackCLI, *NGD, *VICTIM, "--checkpoint", "x.ckpt")
    assert "give the images by --data" in last_line(AttackCLI, *NGD, "--victim", "DigitsCNN")


class FiveClasses(torch.nn.Module):
    """Tells nothing of itself: what does not fit comes out at its first answer."""

    def forward(self, images):
        return images.flatten(1)[:, 2:7]


class OfOtherImages(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(784, 10))


@pytest.mark.parametrize(
    ("victim", "message", "code"),
    [
        ("CarliniWagnerCNN", "Digits has image_shape (1, 8, 8), but CarliniWagnerCNN has (1, 28, 28): choose other", 2),
        ("tests.test_cli_errors.FiveClasses", "labels must lie in 0..4, the victim has 5 classes, got 9", 2),
        ("tests.test_cli_errors.OfOtherImages", "victim OfOtherImages failed on 100 images of shape (1, 8, 8): ", 1),
    ],
)
def test_a_victim_of_other_images_or_classes_is_refused(last_line, victim, message, code):
    assert message in last_line(AttackCLI, *NGD, "--victim", victim, "--data", "Digits", code=code)


def test_unknown_victims_are_told_what_is_known(last_line):
    assert "victim: unknown name 'resnet19'; give a torchvision classifier (e.g. resnet18), one of" in last_line(
        AttackCLI, *NGD, "--victim", "resnet19", "--data", "Digits"
    )
    assert "victim: cannot import no.such.Net" in last_line(
        AttackCLI, *NGD, "--victim", "no.such.Net", "--data", "Digits"
    )


def test_missing_data_says_how_to_get_it(last_line, tmp_path, monkeypatch):
    monkeypatch.setenv("ZEROTH_DATA", str(tmp_path / "empty"))
    words = ("--victim", "CarliniWagnerCNN", "--data", "MNIST", "--data.download", "false")
    line = last_line(AttackCLI, *NGD, *words)
    assert "MNIST is not under" in line and "ZEROTH_DATA" in line


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


def test_a_folder_of_another_run_is_refused(last_line, tmp_path):
    words = [*NGD, *VICTIM, "--images.count", "2", "--budget", "5"]
    run(AttackCLI, *words, "--run.root", tmp_path, *QUIET)
    before = (tmp_path / "attack" / "DigitsCNN-zo_ngd" / "attack.jsonl").read_bytes()
    line = last_line(AttackCLI, *words, "--seed", "1")
    assert "was made with seed = 0, this run has 1" in line and "--run.name" in line
    line = last_line(AttackCLI, *words, "--attack.epsilon", "0.1")
    assert "was made with attack.init_args.epsilon = " in line
    # Records without their lineage are refused by their own header.
    (tmp_path / "attack" / "DigitsCNN-zo_ngd" / "lineage.json").unlink()
    assert "seed: 0 in the file, 1 in this run" in last_line(AttackCLI, *words, "--seed", "1")
    assert (tmp_path / "attack" / "DigitsCNN-zo_ngd" / "attack.jsonl").read_bytes() == before


def test_a_training_folder_of_another_run_is_refused(last_line, tmp_path):
    folder = digits_checkpoint().parents[1]
    words = ["--run.root", folder.parents[1], "--run.name", folder.name, "--trainer.max_epochs", "4"]
    with pytest.raises(ValueError, match=r"was made with trainer.max_epochs = 3, this run has 4: .*--run.name"):
        TrainCLI(list(map(str, [*words, *QUIET])))
