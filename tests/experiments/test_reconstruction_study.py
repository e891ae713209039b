"""The study of reconstructors: what it asks, what its figures are, and that a killed one goes on."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cli import TrainCLI
from datamodules import MeasuredDigits
from experiments.loading import load_experiment
from experiments.plan import make_plan
from experiments.reconstructions import image_of, image_text, methods_figure, reconstructions_figure, study_table
from experiments.studies.image_rows import ImageRows
from experiments.studies.reconstruction import ReconstructionCLI, ReconstructionTask
from lightning_modules import DenoisedReconstruction, Reconstruction
from lightning_modules.reconstruction import image_errors
from tests.runs import QUIET, CountedHalf, asked, digits_checkpoint, run, saved
from tests.starts import start
from zeroth.networks import DnCNN

TABLE = Path(__file__).parents[2] / "configs/experiment/zo_ae_ds/table5_mnist.yaml"
ITEMS = [MeasuredDigits().dataset("test")[row] for row in range(6)]
BATCH = {
    name: torch.stack([torch.as_tensor(item[name]) for item in ITEMS])
    for name in ("image", "original", "label", "index")
}


class Halving(nn.Module):
    """Answers half of what it is asked, and counts; its error is known."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return images / 2


def defended() -> DenoisedReconstruction:
    return DenoisedReconstruction(DnCNN(channels=1, depth=2, width=2), Halving()).eval()  # begins as the identity


def test_an_undefended_box_is_asked_once_a_step_and_a_radius():
    box = Halving()
    task = ReconstructionTask(Reconstruction(box).eval(), epsilons=(0, 0.5, 1), steps=4)
    found = task.predict_step(BATCH)
    assert task.queries == box.seen == 6 * (2 * 4 + 3)
    rmse, ssim = image_errors(BATCH["image"] / 2, BATCH["original"])
    torch.testing.assert_close(found["RMSE, non-adaptive"][:, 0], rmse)
    torch.testing.assert_close(found["SSIM, adaptive"][:, 0], ssim)
    assert torch.equal(found["RMSE, non-adaptive"], found["RMSE, adaptive"])
    assert bool((found["RMSE, non-adaptive"].diff(dim=1) > 0).all())  # a larger ball does more harm


def test_a_defended_box_is_attacked_both_ways_and_answers_by_its_mean():
    """The defense is the identity, so its output without attack is half of the input and of the mean of 5 noises."""
    system = defended()
    task = ReconstructionTask(system, epsilons=(0, 1), steps=4, attack_noises=3, noises=5, seed=7)
    found = task.predict_step(BATCH)
    outputs = 5 * 3  # radius 0 once, radius 1 twice
    assert task.queries == system.defense.box.seen == 6 * (4 + 4 * 3 + outputs)
    streams = task._streams(BATCH["index"], "defended output", torch.device("cpu"))
    noise = torch.stack([streams.randn(torch.arange(6), (1, 8, 8)) for _ in range(5)]).mean(0)
    rmse, _ = image_errors((BATCH["image"] + 0.25 * noise) / 2, BATCH["original"])
    torch.testing.assert_close(found["RMSE, non-adaptive"][:, 0], rmse)
    torch.testing.assert_close(found["RMSE, adaptive"][:, 0], rmse)
    assert not torch.equal(found["RMSE, non-adaptive"][:, 1], found["RMSE, adaptive"][:, 1])
    assert bool((found["RMSE, adaptive"][:, 1] > rmse).all())


def test_rows_on_disk_are_not_measured_again(tmp_path):
    settings = {"steps": 3, "noises": 2}
    halves = [{name: values[part] for name, values in BATCH.items()} for part in (slice(0, 4), slice(4, 6))]

    def task() -> ReconstructionTask:
        task = ReconstructionTask(defended(), epsilons=(0, 1), steps=3, attack_noises=2, noises=2, pictures=5)
        task.rows = ImageRows(tmp_path / "rows.jsonl", settings)
        return task

    first = task()
    whole = [first.predict_step(half) for half in halves]
    text = (tmp_path / "rows.jsonl").read_text()
    lines = text.splitlines()
    assert len(lines) == 7 and sum("images" in json.loads(line) for line in lines) == 5
    each = 3 + 3 * 2 + 2 * 3
    for kept, torn, again in ((7, "", 0), (5, lines[5][:40], 2), (4, "", 6), (1, '{"ind', 6)):
        (tmp_path / "rows.jsonl").write_text("\n".join(lines[:kept]) + "\n" + torn)
        second = task()
        parts = [second.predict_step(half) for half in halves]
        assert second.system.defense.box.seen == again * each and second.queries == first.queries == 6 * each
        for one, two in zip(whole, parts, strict=True):
            assert all(torch.equal(one[name], two[name]) for name in one)
        assert sorted((tmp_path / "rows.jsonl").read_text().splitlines()) == sorted(lines)
    with pytest.raises(ValueError, match=r"rows\.jsonl was made with settings\.steps = 3, this run has 4: delete it"):
        ImageRows(tmp_path / "rows.jsonl", {**settings, "steps": 4})
    (tmp_path / "rows.jsonl").write_text("no rows\nat all\n")
    with pytest.raises(ValueError, match="is damaged"):
        ImageRows(tmp_path / "rows.jsonl", settings)


def test_the_command_measures_a_checkpoint(tmp_path, capsys):
    words = ("--run.root", tmp_path, *QUIET)
    cli = run(TrainCLI, "--config", "configs/victim/digits_reconstruction.yaml", *words, "--trainer.max_epochs", "2")
    best = cli.folder / "checkpoints" / "best.ckpt"
    asked = ("--checkpoint", best, "--images.count", "8", "--steps", "3", "--epsilons", "0", "1", "--pictures", "4")
    study = run(ReconstructionCLI, *asked, "--batch_size", "5", *words)
    told = json.loads((study.folder / "study.json").read_text())
    assert study.folder.name == "digits_reconstruction-reconstruction" and told["n"] == 8
    assert told["queries"] == 8 * (3 + 2) and told["x"]["values"] == [0, 1]
    lines = {line["name"]: line for line in told["lines"]}
    rows = [json.loads(line) for line in (study.folder / "rows.jsonl").read_text().splitlines()[1:]]
    errors = np.array([row["errors"]["RMSE, non-adaptive"] for row in rows])
    np.testing.assert_allclose(lines["RMSE, non-adaptive"]["values"], errors.mean(0))
    assert all(low <= value <= high for name in lines for low, value, high in zip(
        lines[name]["low"], lines[name]["values"], lines[name]["high"], strict=True
    ))  # fmt: skip
    items = MeasuredDigits().dataset("test")
    assert told["examples"]["index"] == [items[row]["index"] for row in range(4)]
    shown = image_of(told["examples"]["original"][2], told["examples"]["shape"])
    np.testing.assert_allclose(shown, items[2]["original"].numpy(), atol=0.5 / 255)
    assert (study.folder / "reconstructions.png").is_file()
    run(ReconstructionCLI, *asked, "--batch_size", "5", *words)
    assert "measured already" in capsys.readouterr().out


def test_a_killed_study_goes_on_with_the_images_left(tmp_path):
    """Killed in its second batch of three: what it reports is what an unbroken one does, and no row is made twice."""
    torch.manual_seed(0)
    denoiser = DnCNN(channels=1, depth=2, width=2)
    nn.init.normal_(list(denoiser.parameters())[-1], std=0.1)  # which begins as the identity
    each = 3 + 3 * 2 + 2 * 3  # an attack of 3 steps, one through 2 draws a step, and three outputs of 2 draws
    box = CountedHalf(log=str(tmp_path / "log"), kill_after=3 * each + 20)
    file = saved(DenoisedReconstruction(denoiser, box), tmp_path / "defense.ckpt")
    words = [
        "--checkpoint",
        file,
        "--data",
        "MeasuredDigits",
        "--images.count",
        "8",
        "--batch_size",
        "3",
        "--steps",
        "3",
    ]
    words += ["--epsilons", "0", "1", "--attack_noises", "2", "--noises", "2", "--pictures", "4", *QUIET]

    def folder(root: str) -> Path:
        return tmp_path / root / "study" / "defense-reconstruction"

    script = "experiments/studies/reconstruction.py"
    assert start(script, *words, "--run.root", tmp_path / "killed", KILL="1").returncode == -9
    lost = asked(tmp_path / "log") - 3 * each
    assert 0 < lost <= 20 and not (folder("killed") / "study.json").exists()
    run(ReconstructionCLI, *words, "--run.root", tmp_path / "killed")
    assert asked(tmp_path / "log") == 8 * each + lost
    run(ReconstructionCLI, *words, "--run.root", tmp_path / "whole")
    for name in ("study.json", "rows.jsonl", "reconstructions.png"):
        assert (folder("killed") / name).read_bytes() == (folder("whole") / name).read_bytes(), name
    assert json.loads((folder("whole") / "study.json").read_text())["queries"] == 8 * each


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilons": (1, 0)}, "epsilons must be radii of 0 or more, ascending, each once, got"),
        ({"epsilons": ()}, "epsilons must be radii"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"attack_noises": 0}, "attack_noises must be at least 1, got 0"),
        ({"noises": 0}, "noises must be at least 1, got 0"),
        ({"pictures": -1}, "pictures must be at least 0, got -1"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReconstructionTask(Reconstruction(Halving()), **arguments)


def test_other_victims_and_radii_are_refused(last_line):
    words = ("--run.wandb", "disabled")
    line = last_line(ReconstructionCLI, "--checkpoint", str(digits_checkpoint()), *words)
    assert "this study is of reconstructors, got a Classifier: give --checkpoint of a training of" in line
    line = last_line(ReconstructionCLI, "--checkpoint", str(digits_checkpoint()), *words, "--pictured", "0.3")
    assert "pictured must be one of the epsilons [0.0, 1.0, 2.0, 3.0, 4.0], got 0.3" in line


def cell(method: str, reported: dict, **examples: list) -> SimpleNamespace:
    lines = [
        {"name": f"{metric}, {way}", "values": [0.1, 0.25], "low": [0.05, 0.2], "high": [0.15, 0.3]}
        for way in ("non-adaptive", "adaptive")
        for metric in ("RMSE", "SSIM")
    ]
    told = {"x": {"name": "radius", "values": [0, 1.0]}, "lines": lines}
    if examples:
        told["examples"] = {"shape": [1, 2, 2], **examples}
    return SimpleNamespace(method=method, reported=reported, measured=told)


def test_ours_stands_beside_the_papers():
    table = study_table([cell("A", {"RMSE": {"0": 0.112, "1": None}}), cell("B", {})])
    assert list(table) == ["method", "what", "radius = 0", "radius = 1"]
    assert [(row.method, row.what) for row in table.itertuples()][:3] == [
        ("A", "RMSE, the paper's"),
        ("A", "RMSE, non-adaptive"),
        ("A", "SSIM, non-adaptive"),
    ]
    assert len(table) == 9 and table.iloc[0, 2] == "0.112" and table.iloc[1, 3] == "0.250 [0.200, 0.300]"
    with pytest.raises(ValueError, match="A: the paper's RMSE is told at '2', which has no column"):
        study_table([cell("A", {"RMSE": {"2": 0.1}})])
    with pytest.raises(ValueError, match="A: the paper reports PSNR, of which no line was measured"):
        study_table([cell("A", {"PSNR": {"0": 0.1}})])


def test_pictures_go_through_text_and_stand_in_a_grid():
    image = np.random.default_rng(0).random((3, 5, 4))
    np.testing.assert_allclose(image_of(image_text(image), (3, 5, 4)), image, atol=0.5 / 255 + 1e-9)
    assert image_of(image_text(np.full((1, 1, 1), 1.7)), (1, 1, 1)) == 1 and "/" not in image_text(np.ones((1, 9, 9)))
    texts = {level: [image_text(np.full((1, 2, 2), level))] * 3 for level in (0.0, 0.2, 0.6, 1.0)}
    told = {"index": [1, 2, 3], "original": texts[0.0]}
    cells = [
        cell("plain", {}, **told, **{"non-adaptive": texts[0.2], "adaptive": texts[0.2]}),
        cell("defended", {}, **told, **{"non-adaptive": texts[0.6], "adaptive": texts[1.0]}),
    ]
    axes = methods_figure(cells).get_axes()
    assert len(axes) == 4 * 3
    assert [float(place.get_images()[0].get_array().mean()) for place in axes[::3]] == pytest.approx([0, 0.2, 0.6, 1])
    with pytest.raises(ValueError, match="defended has no examples of the images that plain has"):
        methods_figure([cells[0], cell("defended", {})])
    with pytest.raises(ValueError, match="there is no image to show"):
        reconstructions_figure({"true image": []})


@pytest.mark.parametrize("scale", ["digits", "mnist", "paper"])
def test_the_table_of_the_paper_is_planned(scale):
    """Each method its own victim; those through an autoencoder follow it; the paper's figures fall as radii grow."""
    experiment = load_experiment(TABLE, scale)
    stages = {stage.name: stage for stage in make_plan(experiment, scale, file=TABLE).stages}
    assert stages["errors-zo_ae_ds"].parents == ["zo_ae_ds"]
    assert stages["zo_ae_ds"].parents == ["standard", "autoencoder"] and stages["zo_ds"].parents == ["standard"]
    words = stages["zo_ae_ds"].commands[0]
    for option, kind, parent in (
        ("victim", "CheckpointReconstructor", "standard"),
        ("autoencoder", "CheckpointAutoencoder", "autoencoder"),
    ):
        network = json.loads(words[words.index(f"--model.init_args.{option}") + 1])
        path = str(stages[parent].folder / "checkpoints" / "best.ckpt")
        assert network == {"class_path": kind, "init_args": {"checkpoint": path}}
    assert len({stage.folder for stage in stages.values()}) == 11
    assert all(stages[name].folder.parent.name == "train-defense" for name in ("fo_ds", "fo_ae_ds", "zo_ds"))
    assert len(experiment.rows) == 5
    for row in experiment.rows:
        rmse, ssim = (list(row.reported[name].values()) for name in ("RMSE", "SSIM"))
        assert rmse == sorted(rmse) and ssim == sorted(ssim, reverse=True) and len(rmse) == len(ssim) == 5
