"""Curves, examples and adversarial images survive batch by batch and merge to what one batch gives."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from callbacks import attack_report
from callbacks.pieces import MARKS, NO_TARGET, load_pieces, query_marks, save_piece
from callbacks.progress import EvaluationProgress
from callbacks.tasks import choose_targets
from cli import AttackCLI, CertifyCLI
from tests.runs import QUIET, counted, run
from tests.victims import random_linear
from zeroth.attacks import NESPGD
from zeroth.oracles import ScoreOracle
from zeroth.records import merge_records


@pytest.fixture(scope="module")
def result():
    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = random_linear(3, 16)
    labels = model(images).argmax(1)
    labels[3] = (labels[3] + 1) % 3  # misclassified
    return NESPGD(epsilon=0.2)(ScoreOracle(model), images, labels, budget=300, seed=0, indices=range(100, 120))


def part(result, rows):
    images = [result.images[rows], result.labels[rows], result.indices[rows]]
    return NESPGD(epsilon=0.2)(ScoreOracle(random_linear(3, 16)), *images[:2], budget=300, seed=0, indices=images[2])


def test_batches_merge_to_the_whole(result, tmp_path):
    marks = query_marks(300)
    for key, rows in (("b", slice(12, 20)), ("a", slice(0, 12))):
        save_piece(tmp_path, key, part(result, rows), marks, adversarial=True)
    pieces = load_pieces(tmp_path)
    assert pieces.keys == [(index, NO_TARGET) for index in range(100, 120)]
    assert torch.allclose(pieces.distance, result.best_distance_at(marks).T)
    assert pieces.distance[3].isinf().all() and 0 < result.success.sum() < 20
    won = result.success.nonzero().flatten()[:8]
    assert [index for index, _ in pieces.shown] == result.indices[won].tolist()
    assert torch.allclose(pieces.adversarial, result.adversarial[won], atol=1e-5)
    assert torch.equal(pieces.image, result.images[won])
    kept = load_file(tmp_path / "adversarial" / "a.safetensors")
    assert kept["index"].tolist() == list(range(100, 112))
    assert torch.allclose(kept["adversarial"], result.adversarial[:12], atol=1e-5)
    # What is claimed as a success is adversarial when asked again.
    again = random_linear(3, 16)(kept["adversarial"]).argmax(1)
    assert torch.equal(again[kept["success"]], kept["predicted"][kept["success"]])
    assert (again[kept["success"]] != kept["label"][kept["success"]]).all()


def test_a_run_without_pieces_has_none(tmp_path):
    assert load_pieces(tmp_path) is None


@pytest.mark.parametrize("budget", [1, 2, 10, 345, 14_000])
def test_marks_rise_from_one_to_the_budget_through_all_numbers_of_one_digit(budget):
    marks = query_marks(budget)
    assert marks[0] == 1 and marks[-1] == budget and marks == sorted(set(marks))
    whole = {mark for mark in range(1, budget + 1) if set(str(mark)[1:]) <= {"0"}}
    assert whole <= set(marks) and len(set(marks) - whole) <= MARKS
    assert budget != 14_000 or {200, 500, 1_000, 2_000, 4_000, 8_000, 14_000} <= set(marks)


def test_pieces_of_unlike_marks_merge_to_those_that_all_have(result, tmp_path):
    save_piece(tmp_path, "a", part(result, slice(0, 12)), [1, 50, 200, 300], adversarial=False)
    save_piece(tmp_path, "b", part(result, slice(12, 20)), [1, 20, 50, 300], adversarial=False)
    pieces = load_pieces(tmp_path)
    assert pieces.marks.tolist() == [1, 50, 300]
    assert torch.allclose(pieces.distance, result.best_distance_at([1, 50, 300]).T)


def test_tallies_add_up_over_batches_and_a_batch_made_twice_counts_once(result, tmp_path):
    """A batch that a later start cuts otherwise leaves two files of one image."""
    for key, rows, counts in (("a", slice(0, 12), 2), ("b", slice(10, 20), 2), ("c", slice(5, 7), None)):
        piece = part(result, rows)
        tallies = {} if counts is None else {"estimates": torch.full_like(piece.indices, counts)}
        save_piece(tmp_path, key, replace(piece, tallies=tallies), [300], adversarial=False)
    assert load_pieces(tmp_path).tallies == {"estimates": 40}


def test_a_report_tells_the_tallies_of_all_batches_and_of_earlier_starts(tmp_path, capsys):
    words = ["--attack", "SVMOPT", "--budget", "250", "--images.count", "5", *counted(tmp_path / "log")]

    def told(*more):
        folder = run(AttackCLI, *words, *more).folder
        return json.loads((folder / "report.json").read_text())["tallies"]

    parts = told("--batch_size", "3", "--run.name", "parts")
    assert parts["programmes"] >= 5 and 0 <= parts["fallbacks"] <= parts["programmes"]
    line = "over all images: fallbacks {fallbacks}, programmes {programmes}".format(**parts)
    assert line in capsys.readouterr().out
    assert told("--batch_size", "5", "--run.name", "whole") == parts
    assert told("--batch_size", "3", "--run.name", "parts") == parts  # all of it is there already


def test_a_batch_of_one_target_an_image_keeps_its_target(tmp_path):
    """Of a run towards all classes, say: what is left after a kill may be one pair."""
    images, model = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1)), random_linear(3, 16)
    labels = model(images).argmax(1)
    for key, targets in (("a", (labels + 1) % 3), ("b", (labels + 2) % 3)):
        piece = NESPGD(epsilon=0.2)(ScoreOracle(model), images, labels, targets, budget=20, seed=0, indices=range(4))
        save_piece(tmp_path, key, piece, [20], adversarial=False)
    pieces = load_pieces(tmp_path)
    assert pieces.keys == sorted((n, (labels[n].item() + k) % 3) for n in range(4) for k in (1, 2))
    old = {name: values for name, values in load_file(tmp_path / "curves" / "a.safetensors").items()}
    for name in ("target", "shown_target"):
        del old[name]
    (tmp_path / "old" / "curves").mkdir(parents=True)
    save_file(old, tmp_path / "old" / "curves" / "a.safetensors")
    assert load_pieces(tmp_path / "old").keys == [(n, NO_TARGET) for n in range(4)]


def test_targets_differ_from_labels_and_depend_on_the_image_alone():
    labels, indices = torch.arange(10).repeat(30), torch.arange(300)
    assert choose_targets("none", labels, indices, 10, 0) is None
    assert choose_targets("next", labels, indices, 10, 0).tolist() == [(k + 1) % 10 for k in labels.tolist()]
    targets = choose_targets("random", labels, indices, 10, 0)
    assert (targets != labels).all() and ((targets >= 0) & (targets < 10)).all()
    assert set(((targets - labels) % 10).tolist()) == set(range(1, 10))
    assert torch.equal(choose_targets("random", labels[7:], indices[7:], 10, 0), targets[7:])
    assert not torch.equal(choose_targets("random", labels, indices, 10, 1), targets)


@pytest.mark.parametrize(("command", "words", "told"), [
    (AttackCLI, ["--attack", "ZONGD", "--attack.epsilon", "0.3", "--budget", "50"], "20 adversarial"),
    (CertifyCLI, ["--certify.n", "60", "--certify.n0", "40"], "20 right under noise"),
])  # fmt: skip
def test_progress_counts_images_and_queries(command, words, told, tmp_path):
    log = tmp_path / "log"
    words += ["--images.count", "20", "--batch_size", "8", *counted(log)]
    cli = command(words)
    progress = EvaluationProgress(Console(file=io.StringIO(), force_terminal=True, width=160))
    cli.trainer.callbacks.append(progress)
    cli.run()
    assert (progress.images, progress.queries) == (20, log.stat().st_size)
    text = progress.console.file.getvalue()
    assert "20/20" in text and " images/s, " in text and " queries/s, " in text
    assert f"{progress.hits} of {told}" in text


def test_save_adversarial_keeps_every_image(tmp_path):
    words = [
        "--attack",
        "ZONGD",
        "--attack.epsilon",
        "0.3",
        "--budget",
        "50",
        "--images.count",
        "12",
        "--batch_size",
        "5",
    ]
    cli = run(AttackCLI, *words, *counted(tmp_path / "log"), "--save-adversarial", *QUIET)
    kept = [load_file(path) for path in sorted((cli.folder / "adversarial").iterdir())]
    assert [piece["index"].tolist() for piece in kept] == cli.data.batches
    assert all(piece["adversarial"].shape[1:] == (1, 8, 8) for piece in kept)


@pytest.mark.parametrize("attack", ["CarliniWagner", "NESPGD"])
def test_an_example_tells_the_queries_it_was_found_within(attack, tmp_path, monkeypatch):
    """Of an attack that goes on after its first success the nearest image is shown, and no first success led to it."""
    told = []
    draw = attack_report.adversarial_figure
    monkeypatch.setattr(
        attack_report, "adversarial_figure", lambda *given, **how: told.append(given) or draw(*given, **how)
    )
    cli = run(AttackCLI, *counted(tmp_path / "log"), "--attack", attack, "--budget", "40", "--images.count", "4")
    rows = merge_records(cli.folder)
    rows = rows[rows["success"]]
    column = "queries" if attack == "CarliniWagner" else "queries_to_success"
    assert len(rows) and told[0][4] == rows[column].tolist()
    report = json.loads((cli.folder / "report.json").read_text())
    assert report["distance"] == report["norm"] == {"CarliniWagner": "l2", "NESPGD": "linf"}[attack]
