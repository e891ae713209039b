"""Targeted protocols: which targets are attacked, in which rows, with which draws; runs of pairs that are killed."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from callbacks.attack_evaluation import AttackEvaluation
from callbacks.selection import EvaluationData, Selection
from callbacks.tasks import AttackTask, choose_targets, wrong_classes
from cli import AttackCLI, TuneCLI
from datamodules import Digits
from tests.runs import asked, counted, run
from tests.starts import start
from tests.victims import Logging, Scatter, label_scatter, random_linear
from zeroth.oracles import GradientOracle, LabelOracle, ScoreOracle
from zeroth.oracles.goal import margin
from zeroth.records import CASES, attack_summary, merge_records, select_case, write_merged

K = 5
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
NET = random_linear(K, 16)
LABELS = NET(IMAGES).argmax(1)
LABELS[2] = (LABELS[2] + 1) % K  # the victim gets it wrong
BATCH = {"image": IMAGES, "label": LABELS, "index": torch.arange(20, 26)}
SCATTER = {"scale": 0.4, "width": 3}


def task(targeted, victim=NET, attack=None, **options):
    attack = attack or Scatter(**SCATTER)
    return AttackTask(victim, attack, num_classes=K, budget=30, seed=4, targeted=targeted, **options)


def part(rows):
    return {name: values[rows] for name, values in BATCH.items()}


def same(one, two):
    names = ("indices", "labels", "targets", "queries", "queries_to_success", "distance", "adversarial", "predicted")
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in names) and one.reason == two.reason


def test_all_attacks_each_image_toward_each_wrong_class():
    victim = Logging(NET)
    result = task("all", victim).predict_step(BATCH)
    assert result.indices.tolist() == [index for index in range(20, 26) for _ in range(K - 1)]
    assert result.targets.tolist() == [k for label in LABELS.tolist() for k in range(K) if k != label]
    assert victim.seen == int(result.queries.sum())
    assert (result.predicted == result.targets)[result.success].all() and 0 < result.success.sum() < 23
    # Of the image that is wrong from the start, the pair with the victim's own class alone is out of play.
    out = [place for place, reason in enumerate(result.reason) if reason == "already_target"]
    assert [(int(result.indices[p]), int(result.targets[p])) for p in out] == [(22, int(NET(IMAGES[2:3]).argmax()))]


def test_a_pair_does_not_depend_on_its_batch_and_draws_for_itself():
    whole = task("all").predict_step(BATCH)
    halves = [task("all").predict_step(part(rows)) for rows in (slice(0, 1), slice(1, 6))]
    assert same(whole, type(whole).concatenate(halves))
    # A pair by itself, under a key of its own.
    label, target = int(LABELS[4]), int(whole.targets[17])
    alone = Scatter(**SCATTER)(
        ScoreOracle(NET), IMAGES[4:5], torch.tensor([label]), torch.tensor([target]), budget=30, seed=4,
        indices=[24 * K + target],
    )  # fmt: skip
    assert alone.queries[0] == whole.queries[17] and torch.equal(alone.adversarial[0], whole.adversarial[17])
    victim = Logging(NET)
    task("all", victim).predict_step(part(slice(0, 1)))
    assert len(victim.asked[K - 1 :].unique(dim=0)) == victim.seen - (K - 1)  # no point is drawn for two pairs


def test_average_has_the_targets_of_random():
    drawn = choose_targets("random", LABELS, BATCH["index"], K, 4)
    assert (drawn != LABELS).all()
    assert all(int(t) in row for t, row in zip(drawn, wrong_classes(LABELS, K).tolist(), strict=True))
    assert task("random").predict_step(BATCH).targets.tolist() == drawn.tolist()


def test_a_batch_has_whole_images_and_at_most_so_many_rows():
    for size, images in ((100, 11), (9, 1), (4, 1), (18, 2)):
        data = EvaluationData(Digits(), Selection(count=12), batch_size=size, rows_an_image=9)
        data.setup()
        assert len(data.batches[0]) == images


class TestLeastLikely:
    @pytest.mark.parametrize("oracle", [ScoreOracle, GradientOracle])
    def test_it_is_the_argmin_of_the_first_answer_and_costs_nothing(self, oracle):
        scores = NET(IMAGES)
        expected = scores.argmin(1)
        assert (expected != LABELS).all()
        victims = [Logging(NET), Logging(NET)]
        attack = Scatter(**SCATTER, oracle_type=oracle)
        got = task("least_likely", victims[0], attack).predict_step(BATCH)
        told = attack(oracle(victims[1]), IMAGES, LABELS, expected, budget=30, seed=4, indices=BATCH["index"])
        assert same(got, told) and got.targets.tolist() == expected.tolist()
        assert victims[0].seen == victims[1].seen == int(got.queries.sum())

    def test_a_wrong_class_is_meant_where_the_label_is_the_least_likely(self):
        labels = NET(IMAGES).argmin(1)
        expected = NET(IMAGES).argsort(1)[:, 1]
        result = Scatter(**SCATTER)(ScoreOracle(NET), IMAGES, labels, "least_likely", budget=3, seed=0)
        assert result.targets.tolist() == expected.tolist()

    def test_the_first_gradient_is_that_of_its_margin(self):
        seen = {}

        class Keep(Scatter):
            def run(self, trial):
                seen["gradient"], seen["goal"] = trial.start_gradient, trial.goal

        Keep(oracle_type=GradientOracle)(
            GradientOracle(NET, max_batch=4), IMAGES, LABELS, "least_likely", budget=9, seed=0
        )
        points = IMAGES.clone().requires_grad_()
        log_p = NET(points).log_softmax(1).float()
        (expected,) = torch.autograd.grad(margin(log_p, LABELS, log_p.detach().argmin(1)).sum(), points)
        assert torch.allclose(seen["gradient"], expected, atol=1e-5) and expected.abs().amax((1, 2, 3)).min() > 0
        assert seen["goal"].targets.tolist() == log_p.argmin(1).tolist()

    @pytest.mark.parametrize("oracle", [ScoreOracle, GradientOracle])
    def test_an_image_that_was_never_asked_has_no_target(self, oracle):
        attack = Scatter(**SCATTER, oracle_type=oracle)
        result = task("least_likely", attack=attack, total_queries=4).predict_step(BATCH)
        assert result.targets[4:].tolist() == result.predicted[4:].tolist() == [-1, -1]
        assert result.targets[:4].tolist() == NET(IMAGES[:4]).argmin(1).tolist()
        assert set(result.reason[4:]) == {"total_budget"}

    def test_labels_alone_cannot_tell_it_which_is_said_before_any_query(self):
        victim, message = Logging(NET), r"read off the scores.*LabelOracle.*--targeted next, random or all"
        with pytest.raises(ValueError, match=message):
            task("least_likely", victim, label_scatter())
        with pytest.raises(ValueError, match=message):
            label_scatter()(LabelOracle(victim), IMAGES, LABELS, "least_likely", budget=9, seed=0)
        with pytest.raises(ValueError, match=r"targets must be .* 'least_likely' or None, got 'hardest'"):
            Scatter()(ScoreOracle(victim), IMAGES, LABELS, "hardest", budget=9, seed=0)
        assert victim.seen == 0


WORDS = ["--attack", "ZONGD", "--attack.epsilon", "0.45", "--targeted", "all"]


def rows(folder):
    return merge_records(folder).drop(columns="seconds")


def test_a_killed_run_of_pairs_goes_on_and_shards_merge_to_one_run(tmp_path):
    words = [*WORDS, "--images.count", "5", "--batch_size", "20", "--budget", "150", "--save-adversarial"]
    (tmp_path / "whole").mkdir()
    whole = run(AttackCLI, *words, *counted(tmp_path / "whole" / "log"))
    total, expected = asked(tmp_path / "whole" / "log"), rows(whole.folder)
    assert [len(batch) for batch in whole.data.batches] == [2, 2, 1] and len(expected) == 45
    assert total == expected["queries"].sum()

    log = tmp_path / "log"
    killed = [*words, *counted(log, kill_after=int(0.6 * total)), "--run.name", "killed"]
    assert start("attack.py", *killed, KILL="1").returncode == -9
    before = asked(log)
    again = run(AttackCLI, *killed)
    assert 0.6 * total - 128 <= before <= 0.6 * total and asked(log) == total  # nothing is asked twice
    pd.testing.assert_frame_equal(rows(again.folder), expected)
    for kind in ("curves", "adversarial"):
        for path in sorted((whole.folder / kind).iterdir()):
            assert path.read_bytes() == (again.folder / kind / path.name).read_bytes()

    for shard in ("1/2", "2/2"):
        cli = run(AttackCLI, *words, *counted(tmp_path / "shards"), "--run.name", "shards", "--shard", shard)
    pd.testing.assert_frame_equal(rows(cli.folder), expected)
    write_merged(cli.folder, tmp_path / "shards.jsonl")
    assert len((tmp_path / "shards.jsonl").read_text().splitlines()) == 46
    reports = [json.loads((one.folder / "report.json").read_text()) for one in (whole, cli)]
    assert reports[0]["cases"] == reports[1]["cases"] and all(report["complete"] for report in reports)

    table = merge_records(whole.folder)
    for case in CASES:
        chosen, told = select_case(table, case, norm="linf", seed=0), reports[0]["cases"][case]
        assert told["n"] == 5 and told["success_rate"] == attack_summary(chosen)["success_rate"]
        medians = told["distortion_curve"]["distance_median"]
        distances = chosen["linf"].astype(float).where(chosen["success"], float("inf"))
        assert medians[-1] == (pytest.approx(distances.median()) if distances.median() < 1 else None)
    best, worst = (reports[0]["cases"][case]["n_success"] for case in ("best", "worst"))
    assert reports[0]["n"] == 45 and reports[0]["recorded"] == 5 and worst < best
    pieces = [load_file(path) for path in (whole.folder / "adversarial").iterdir()]
    kept = {(i, t) for piece in pieces for i, t in zip(piece["index"].tolist(), piece["target"].tolist(), strict=True)}
    assert kept == set(zip(expected["index"], expected["target"], strict=True))
    assert (whole.folder / "adversarial_examples.png").exists()


def test_a_cap_on_all_queries_takes_pairs_in_order_and_survives_an_end(tmp_path):
    words = [*WORDS, "--images.count", "4", "--batch_size", "9", "--budget", "60", "--total-queries", "700"]
    cli = run(AttackCLI, *words, *counted(tmp_path / "log"))
    table = merge_records(cli.folder)
    assert asked(tmp_path / "log") == table["queries"].sum() <= 700
    unasked = table.loc[table["predicted"] < 0, "index"].unique().tolist()
    assert unasked and unasked[-1] == table["index"].max()
    worst = select_case(table, "worst", norm="linf", seed=0)
    assert worst.loc[worst["predicted"] < 0, "index"].tolist() == unasked
    # The first batches are kept: what they have spent still counts.
    file = cli.folder / "attack.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:19]))
    run(AttackCLI, *words, *counted(tmp_path / "log"))
    pd.testing.assert_frame_equal(rows(cli.folder), table.drop(columns="seconds"))


def test_the_evaluation_inside_fit_tells_the_cases():
    class Module(nn.Module):
        forward = staticmethod(NET)

    evaluation = AttackEvaluation(Scatter(**SCATTER), budget=30, seed=4, targeted="all")
    task_ = evaluation.start(Module(), K)
    told: dict[str, float] = {}
    for cut in (slice(0, 2), slice(2, 6)):
        for name, value in evaluation.count(task_.predict_step(part(cut)), part(cut)).items():
            told[name] = told.get(name, 0) + value
    assert sorted(told) == sorted(evaluation.sum_names)
    result = task("all").predict_step(BATCH)
    logged = evaluation.scalars(told, len(LABELS))
    won, out = (
        m.reshape(6, K - 1) for m in (result.success, torch.tensor([r == "already_target" for r in result.reason]))
    )
    assert logged["val_attack_success_rate"] == pytest.approx(float(result.success.sum()) / 23)
    assert logged["val_attack_queries"] == pytest.approx(float(result.queries.sum() - 1) / 23)
    assert logged["val_attack_success_rate_best"] == pytest.approx(float(won.any(1).float().mean()))
    assert logged["val_attack_success_rate_worst"] == pytest.approx(float((won | out).all(1).float().mean()))
    assert "val_robust_accuracy" not in logged


def test_tuning_measures_pairs(tmp_path):
    words = ["--attack", "ZONGD", "--attack.epsilon", "0.25", "--targeted", "all", "--trials", "1", "--budget", "30"]
    cli = run(TuneCLI, *words, "--images.count", "3", *counted(tmp_path / "log"))
    (trial,) = json.loads((cli.folder / "trials.json").read_text())["results"]
    assert trial["total_queries"] == asked(tmp_path / "log") and trial["attacked"] in (24, 25, 26, 27)
