"""Bad input on the command line: exit code 2 and one last line that names the option, the value and the remedy."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.utilities.exceptions import SIGTERMException

from cli import AttackCLI, CertifyCLI, TrainCLI, plain_messages
from cli.parser import spelled
from datamodules import Digits
from tests.runs import QUIET, digits_checkpoint, run

VICTIM = ("--victim", "DigitsCNN", "--data", "Digits")
NGD = ("--attack", "configs/attack/zo_ngd.yaml")


TRAINING = {
    "unknown option": (["--foo", "1"], "unknown option --foo"),
    "abbreviation": (["--trainer.max_epoch", "3"], "--trainer.max_epoch 3: did you mean --trainer.max_epochs?"),
    "wrong type": (["--trainer.max_epochs", "many"], "trainer.max_epochs: expected int, got many"),
    "unknown key of a class": (
        ["--data.batchsize", "3"],
        "Option 'batchsize' is not accepted; did you mean batch_size? Digits takes batch_size, val_size,",
    ),
    "unknown dataset": (
        ["--data", "Digit", "--model", "Classifier"],
        "data: unknown class 'Digit'; known are AttackOptimizees, CIFAR10, ClassificationOptimizees, Digits,",
    ),
    "unknown network": (["--model.network", "Net"], "network: unknown class 'Net'; known are CIFAR10Autoencoder,"),
    "unknown model": (
        ["--model", "Clasifier", "--data", "Digits"],
        "model: unknown class 'Clasifier'; known are Autoencoder, Classifier",
    ),
    "missing config": (
        ["--config", "nothing.yaml"],
        f": error: config: File does not exist: '{Path.cwd() / 'nothing.yaml'}'",
    ),
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
    "no surrogates": (
        ["--attack", "configs/attack/transfer.yaml"],
        "attack: Transfer: --attack.surrogates is required; --attack.help Transfer tells more",
    ),
    "surrogate of other images": (
        ["--attack", "Transfer", "--attack.surrogates", "[{class_path: CarliniWagnerCNN}]"],
        "attack.surrogates[0]: Digits has image_shape (1, 8, 8), but CarliniWagnerCNN has (1, 28, 28): choose other",
    ),
    "surrogate of other classes": (
        [
            "--attack",
            "Transfer",
            "--attack.surrogates",
            "[DigitsCNN, {class_path: VGG16BN, init_args: {num_classes: 7}}]",
        ],
        "attack.surrogates[1]: Digits has num_classes 10, but VGG16BN has 7",
    ),
    "inner attack without a class": (
        ["--attack", "Transfer", "--attack.surrogates", "[DigitsCNN]", "--attack.attack.epsilon", "0.2"],
        "attack: Transfer: attack: name the class before its arguments, as in --attack.attack NAME",
    ),
    "unknown surrogate": (
        ["--attack", "Transfer", "--attack.surrogates", "[{class_path: DigitCNN}]"],
        "surrogates: unknown class 'DigitCNN'; known are CIFARResNet, CarliniWagnerCNN,",
    ),
    "no checkpoint of a surrogate": (
        ["--attack", "Transfer", "--attack.surrogates", "[CheckpointClassifier]"],
        "attack: CheckpointClassifier: checkpoint is required; --attack.help Transfer tells more",
    ),
    "unknown hyperparameter": (
        [*NGD, "--attack.stepsize", "1"],
        "Option 'stepsize' is not accepted; did you mean step? ZONGD takes epsilon,",
    ),
    "wrong type": ([*NGD, "--attack.samples", "many"], "samples: expected int, got many"),
    "negative epsilon": ([*NGD, "--attack.epsilon=-0.1"], ": error: epsilon must be > 0 in [0, 1] pixels, got -0.1"),
    "budget 0": ([*NGD, "--budget", "0"], "budget must be at least 1 query an image, got 0"),
    "cap 0": ([*NGD, "--total-queries", "0"], "total_queries must be at least 1 or null for no cap, got 0"),
    "cap and shards": ([*NGD, "--total-queries", "9", "--shard", "1/2"], "leave out --shard"),
    "targeted": (
        [*NGD, "--targeted", "worst"],
        "targeted: expected one of 'none', 'next', 'random', 'least_likely', 'all', got worst",
    ),
    "shard": ([*NGD, "--shard", "3/2"], "shard must be k/n with 1 <= k <= n, e.g. 1/4, got '3/2'"),
    "too many images": ([*NGD, "--images.count", "400"], "leaves 397 images of the 397 in split 'test'"),
    "split": ([*NGD, "--images.split", "all"], "images.split: expected one of 'train', 'val', 'test', got all"),
    "output": ([*NGD, "--victim.output", "scores"], "victim.output: expected one of 'logits',"),
    "init_args": (
        [*NGD, "--victim.init_args.depth", "3"],
        "victim DigitsCNN does not take victim.init_args {'depth': 3}",
    ),
    "weights": ([*NGD, "--victim.weights", "DEFAULT"], "victim.weights 'DEFAULT' is for torchvision's models"),
    "state_dict": ([*NGD, "--victim.state_dict", "no.pt"], "checkpoint no.pt does not exist"),
}


@pytest.mark.parametrize(("words", "message"), ATTACK.values(), ids=ATTACK)
def test_attack(last_line, words, message):
    assert message in last_line(AttackCLI, *VICTIM, *words)


CERTIFY = {
    "sigma 0": (
        ["--certify.sigma", "0"],
        "certify.sigma must be a positive standard deviation in [0, 1] pixels (say 0.25), got 0.0",
    ),
    "alpha 0": (
        ["--certify.alpha", "0"],
        "certify.alpha must lie strictly between 0 and 1 (the papers use 0.001), got 0.0",
    ),
    "alpha 1": (
        ["--certify.alpha", "1"],
        "certify.alpha must lie strictly between 0 and 1 (the papers use 0.001), got 1.0",
    ),
    "no samples": (["--certify.n", "0"], "certify.n must be at least 1 sample an image, got 0"),
    "batch_size 0": (["--batch_size", "0"], "batch_size must be at least 1, got 0"),
}


@pytest.mark.parametrize(("words", "message"), CERTIFY.values(), ids=CERTIFY)
def test_certify(last_line, words, message):
    assert message in last_line(CertifyCLI, *VICTIM, *words)


def test_a_victim_is_needed_and_only_one(last_line):
    message = "give a victim: either --checkpoint FILE of train.py, or --victim NAME"
    assert message in last_line(AttackCLI, *NGD)
    assert "give the images by --data" in last_line(AttackCLI, *NGD, "--victim", "DigitsCNN")


@pytest.mark.parametrize(
    ("command", "words", "told"),
    [
        (AttackCLI, ["--attack"], "attack: the file that was given is no text: give a YAML file or one of Bandits,"),
        (
            TrainCLI,
            ["--config", "configs/optimizer/digits_attack.yaml", "--data.init_args.victim"],
            "data.victim: the file {} is no text: give a YAML file or one of CIFARResNet,",
        ),
        (TrainCLI, ["--config"], "error: config: the file {} is no text: give a YAML file, as those of configs/"),
    ],
)
def test_a_checkpoint_in_the_place_of_a_config_is_told(command, words, told, last_line, tmp_path):
    binary = tmp_path / "best.ckpt"
    binary.write_bytes(b"PK\x03\x04\x80\x02")
    assert told.format(binary) in last_line(command, *words, binary)


class Bytes(Digits):
    """Pixels in 0..255."""

    def dataset(self, split):
        return [{**item, "image": (255 * item["image"]).round()} for item in super().dataset(split)]


@pytest.mark.parametrize(("command", "words"), [(AttackCLI, NGD), (CertifyCLI, ())])
def test_images_that_are_not_in_the_unit_range(last_line, command, words):
    line = last_line(command, *words, "--victim", "DigitsCNN", "--data", "tests.test_cli_errors.Bytes")
    assert re.search(r"images must lie in \[0, 1\], got values in \[0, 255\]", line)


UNKNOWN = {
    "top": ("config", "budgett: 5", "Option 'budgett' is not accepted; did you mean budget?"),
    "group": ("config", "images:\n  cuont: 5", "Group 'images' does not accept option 'cuont'; did you mean count?"),
    "far": ("config", "xyzzy: 5", "Option 'xyzzy' is not accepted; --help lists the options"),
    "class": ("attack", "class_path: ZONGD\ninit_args: {epsilonn: 1}", "is not accepted; did you mean epsilon? ZONGD"),
}


@pytest.mark.parametrize(("option", "text", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_key_in_a_file(last_line, tmp_path, monkeypatch, option, text, message):
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text("seed: 1")
    Path("bad.yaml").write_text(text)
    words = [*VICTIM, "--config", "good.yaml", f"--{option}=bad.yaml", *(["--attack", "ZONGD"] * (option == "config"))]
    line = last_line(AttackCLI, *words)
    assert "error: bad.yaml: " in line and message in line


def test_dashes_are_underscores(last_line):
    assert "batch_size must be at least 1, got 0" in last_line(AttackCLI, *NGD, *VICTIM, "--batch-size", "0")
    assert "max_batch must be at least 1" in last_line(AttackCLI, *NGD, *VICTIM, "--max-batch=-1")
    assert "fisher_samples" in last_line(AttackCLI, *NGD, *VICTIM, "--attack.fisher-samples", "-3")
    # What lies below an argument of a victim's class is the user's own.
    assert spelled("--victim.init-args.headers.X-Key=a-b") == "--victim.init_args.headers.X-Key=a-b"
    assert spelled("--run.name=a-b") == "--run.name=a-b" and spelled("-c") == "-c"


def test_a_training_that_diverges(last_line):
    words = ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1e30", "--trainer.max_epochs", "3")
    line = last_line(TrainCLI, *words, code=1)
    assert "loss is nan" in line


def test_a_tree_without_test_images_is_told_before_training(last_line, tmp_path, monkeypatch):
    pixels = np.zeros((8, 8, 3), np.uint8)
    for label in "ab":
        (tmp_path / "tree" / "train" / label).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(pixels).save(tmp_path / "tree" / "train" / label / f"{number}.png")
    data = ("--data", "ImageFolder", "--data.folder", "tree", "--data.root", tmp_path, "--data.val_size", "2")
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", lambda *_, **__: pytest.fail("trained"))
    line = last_line(TrainCLI, "--model", "Classifier", "--model.network", "DigitsCNN", *data)
    assert f"here is no image folder {tmp_path / 'tree' / 'test'}" in line


def test_missing_data_says_how_to_get_it(last_line, tmp_path, monkeypatch):
    monkeypatch.setenv("ZEROTH_DATA", str(tmp_path / "empty"))
    words = ("--victim", "CarliniWagnerCNN", "--data", "MNIST", "--data.download", "false")
    line = last_line(AttackCLI, *NGD, *words)
    assert "MNIST is not under" in line and "ZEROTH_DATA" in line


@pytest.mark.parametrize(
    ("command", "words", "other", "field"),
    [
        (AttackCLI, [*NGD, "--budget", "5"], ["--attack.epsilon", "0.1"], "attack.init_args.epsilon = "),
        (CertifyCLI, ["--certify.n", "5", "--run.name", "c"], ["--certify.sigma", "0.5"], "certify.sigma = 0.25, this"),
    ],
)
def test_a_folder_of_another_run_is_refused(last_line, tmp_path, command, words, other, field):
    words = [*words, *VICTIM, "--images.count", "2"]
    cli = run(command, *words, "--run.root", tmp_path, *QUIET)
    (records,) = [path for path in cli.folder.iterdir() if path.suffix in (".jsonl", ".tsv")]
    before = records.read_bytes()
    line = last_line(command, *words, "--seed", "1")
    assert "was made with seed = 0, this run has 1" in line and "--run.name" in line
    assert f"was made with {field}" in last_line(command, *words, *other)
    # Records without their lineage are refused by their own header.
    (cli.folder / "lineage.json").unlink()
    assert "seed: 0 in the file, 1 in this run" in last_line(command, *words, "--seed", "1")
    assert records.read_bytes() == before


def test_a_training_folder_of_another_run_is_refused(last_line, tmp_path):
    folder = digits_checkpoint().parents[1]
    words = ["--run.root", folder.parents[1], "--run.name", folder.name, "--trainer.max_epochs", "4"]
    with pytest.raises(ValueError, match=r"was made with trainer.max_epochs = 3, this run has 4: .*--run.name"):
        TrainCLI(list(map(str, [*words, *QUIET])))


def test_a_training_that_is_terminated_does_not_end_as_if_it_were_done(capsys):
    with pytest.raises(SystemExit) as end, plain_messages():
        raise SIGTERMException  # what Lightning ends a fit with; its own exit code is 0
    assert end.value.code == 143
    assert capsys.readouterr().err.endswith(": error: stopped; the same command goes on from here\n")
