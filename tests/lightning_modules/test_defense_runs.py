"""Trainings of a defense by train.py: killed, bounded by a budget, built on other checkpoints."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from cli import CertifyCLI, TrainCLI
from cli.victims import load_checkpoint
from datamodules import Digits
from lightning_modules import DenoisedSmoothing
from tests.runs import QUIET, asked, digits_checkpoint, run, saved
from tests.starts import start
from zeroth.networks import CheckpointClassifier, DnCNN
from zeroth.records import file_sha256, read_records

IMAGES, VALIDATION = 24, 200


def config_of(folder: Path, kill_after: int = 0, **arguments) -> Path:
    victim = {"class_path": "tests.runs.Counted", "init_args": {"log": str(folder / "log"), "kill_after": kill_after}}
    options = {
        "denoiser": {"class_path": "DnCNN", "init_args": {"channels": 1, "depth": 3, "width": 4}},
        "victim": victim,
        "autoencoder": {"class_path": "DigitsAutoencoder"},
        "estimator": {"class_path": "RGE", "init_args": {"q": 4, "mu": 0.005}},
        "train_images": IMAGES,
        **arguments,
    }
    written = {
        "model": {"class_path": "DenoisedSmoothing", "init_args": options},
        "data": {"class_path": "Digits", "init_args": {"batch_size": 10}},
        "trainer": {"max_epochs": 3, "enable_progress_bar": False},
        "run": {"name": "it", "root": str(folder), "wandb": "disabled"},
    }
    folder.mkdir(exist_ok=True)
    (folder / "it.yaml").write_text(yaml.safe_dump(written))
    return folder / "it.yaml"


def held(folder: Path) -> dict:
    return torch.load(folder / "train-defense/it/checkpoints/last.ckpt")


EPOCH = IMAGES * 5 + VALIDATION


def test_a_killed_training_takes_the_same_steps(tmp_path):
    """Killed in its second epoch, which begins anew; the labels are not asked again. Then certified as any model."""
    run(TrainCLI, "--config", config_of(tmp_path / "whole"))
    kill_after = IMAGES + EPOCH + 60
    path = config_of(tmp_path / "killed", kill_after)
    assert start("train.py", "--config", path, KILL="1").returncode == -9
    lost = asked(tmp_path / "killed/log") - IMAGES - EPOCH
    assert 0 < lost <= 60
    run(TrainCLI, "--config", path)
    whole, killed = held(tmp_path / "whole"), held(tmp_path / "killed")
    assert whole["state_dict"].keys() == killed["state_dict"].keys() and len(whole["state_dict"]) > 5
    assert all(torch.equal(value, killed["state_dict"][name]) for name, value in whole["state_dict"].items())
    assert whole["defense"]["queries"] == killed["defense"]["queries"] == IMAGES + 3 * EPOCH
    test = 2 * 397  # with noise and without
    assert asked(tmp_path / "whole/log") == IMAGES + 3 * EPOCH + test
    assert asked(tmp_path / "killed/log") == IMAGES + 3 * EPOCH + test + lost
    lineage = json.loads((tmp_path / "killed/train-defense/it/lineage.json").read_text())
    assert lineage["job"] == "train-defense"
    best = tmp_path / "whole/train-defense/it/checkpoints/best.ckpt"
    before = asked(tmp_path / "whole/log")
    words = ("--certify.n0", "10", "--certify.n", "40", "--images.count", "7", "--run.root", tmp_path)
    run(CertifyCLI, "--checkpoint", best, *words, "--run.wandb", "disabled")
    assert asked(tmp_path / "whole/log") - before == 7 * 50  # each noisy image is one query of the box


@pytest.mark.parametrize("spare", [0, 60, EPOCH - 1])
def test_a_budget_ends_training_and_a_larger_one_goes_on(spare, tmp_path):
    """Two whole epochs, whatever is left: the third is not begun. A larger budget takes the steps of none."""
    epochs = ("--trainer.max_epochs", "3")
    path = config_of(tmp_path / "cut", budget=IMAGES + 2 * EPOCH + spare)
    test = 2 * 397
    for again in (1, 2):  # the same command asks no more of the box than its test
        run(TrainCLI, "--config", path, *epochs)
        assert held(tmp_path / "cut")["defense"]["queries"] == IMAGES + 2 * EPOCH
        assert asked(tmp_path / "cut/log") == IMAGES + 2 * EPOCH + again * test
    if spare:
        return
    run(TrainCLI, "--config", config_of(tmp_path / "cut", budget=10_000), *epochs)
    run(TrainCLI, "--config", config_of(tmp_path / "whole"), *epochs)
    whole, cut = held(tmp_path / "whole"), held(tmp_path / "cut")
    assert whole["defense"]["queries"] == cut["defense"]["queries"] == IMAGES + 3 * EPOCH
    assert all(torch.equal(value, cut["state_dict"][name]) for name, value in whole["state_dict"].items())


def test_a_checkpoint_needs_none_of_the_files_that_it_was_made_from(tmp_path):
    """An autoencoder and a denoiser read from checkpoints are trained on; the new checkpoint holds them itself."""
    words = ("--run.root", tmp_path, "--run.wandb", "disabled", "--trainer.max_epochs", "1")
    words += ("--trainer.enable_progress_bar", "false")
    root = Path(__file__).parents[2]
    run(TrainCLI, "--config", root / "configs/autoencoder/digits.yaml", *words)
    coder = tmp_path / "train-autoencoder/digits/checkpoints/best.ckpt"
    reader = {"class_path": "CheckpointAutoencoder", "init_args": {"checkpoint": str(coder)}}
    run(TrainCLI, "--config", config_of(tmp_path / "first", autoencoder=reader))
    first = tmp_path / "first/train-defense/it/checkpoints/best.ckpt"
    denoiser = {"class_path": "CheckpointDenoiser", "init_args": {"checkpoint": str(first)}}
    again = {"class_path": "CheckpointAutoencoder", "init_args": {"checkpoint": str(first)}}
    path = config_of(tmp_path / "second", denoiser=denoiser, autoencoder=again)
    lineage = json.loads((tmp_path / "first/train-defense/it/lineage.json").read_text())
    assert [parent["job"] for parent in lineage["parents"]] == ["train-autoencoder"]
    old = load_checkpoint(first)[0]
    weights = {name: value for name, value in torch.load(coder)["state_dict"].items() if "decoder" in name}
    assert all(
        torch.equal(old.state_dict()[f"defense.autoencoder.{n.removeprefix('network.')}"], v)
        for n, v in weights.items()
    )
    run(TrainCLI, "--config", path)
    coder.unlink()
    first.unlink()
    second, _ = load_checkpoint(tmp_path / "second/train-defense/it/checkpoints/last.ckpt")
    images = torch.stack([Digits().dataset("test")[place]["image"] for place in range(3)])
    assert second(images).shape == (3, 10)


def test_the_rows_of_a_defended_box_belong_to_the_file_of_the_box_too(tmp_path, last_line):
    """The defense's checkpoint holds nothing of the box: another box behind it makes other rows, and is named."""
    box, root = tmp_path / "box.ckpt", ("--run.root", str(tmp_path), *QUIET)
    shutil.copy(digits_checkpoint(), box)
    module = DenoisedSmoothing(DnCNN(channels=1, depth=2, width=2), CheckpointClassifier(str(box)))
    defense = saved(module, tmp_path / "defense.ckpt")
    words = ["--checkpoint", str(defense), "--data", "Digits", "--images.count", "3", *root]
    words += ["--certify.n0", "10", "--certify.n", "20"]
    cli = run(CertifyCLI, *words)
    hashes = {"checkpoint_sha256": file_sha256(defense), "box_sha256": (first := file_sha256(box))}
    assert cli.settings["victim"] == {"output": "logits", **hashes}
    header, _ = read_records(cli.folder / "certificate.tsv")
    assert header.config["victim.box_sha256"] == first and header.checkpoint_sha256 == hashes["checkpoint_sha256"]
    lineage = json.loads((cli.folder / "lineage.json").read_text())
    assert [parent["sha256"] for parent in lineage["parents"]] == list(hashes.values())
    run(CertifyCLI, *words)  # the same one goes on

    held = torch.load(box)
    held["state_dict"] = {name: value + 0.01 for name, value in held["state_dict"].items()}
    torch.save(held, box)
    told = last_line(CertifyCLI, *words)
    assert f"was made with victim.box_sha256 = {first!r}, this run has {file_sha256(box)!r}: use the same" in told
    # The victims of all other evaluations are told as ever: their record files have the hashes that they always had.
    words[words.index(str(defense))] = str(digits_checkpoint())
    plain = CertifyCLI(words)
    assert plain.settings["victim"] == {"output": "logits", "checkpoint_sha256": file_sha256(digits_checkpoint())}
    assert len(plain.parents()) == 1
