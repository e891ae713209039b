"""The study of optimizers: closed forms of its figures, what it asks, what it tunes, and that a killed one goes on."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.building import build_cell
from experiments.experiment import Picture
from experiments.loading import load_experiment
from experiments.optimizations import figures_table, losses_figure
from experiments.pictures import draw_picture, source_hash
from experiments.plan import make_plan
from experiments.studies.image_rows import ImageRows
from experiments.studies.optimization import OptimizationCLI, OptimizationTask
from experiments.studies.tuning import Tuning, search
from experiments.tables import table_markdown
from tests.experiments.published import study_experiment
from tests.runs import asked, counted, optimizer_checkpoint, run
from tests.victims import Linear, Logging, random_linear
from zeroth.estimators import CGE, RGE, LearnedSampling
from zeroth.networks import CheckpointQueryRNN, CheckpointUpdateRNN
from zeroth.optimizers import ZOSGD, ZOSZVRG, LearnedOptimizer, ZOSignSGD

FIGURE = Path(__file__).parents[2] / "configs/experiment/zo_l2l/fig2_mnist.yaml"
NET = random_linear(4, 16)
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
LABELS = NET(IMAGES).argmax(1)
LABELS[2] = (LABELS[2] + 1) % 4  # which the victim gets wrong
BATCH = {"image": IMAGES, "label": LABELS, "index": torch.arange(10, 16)}


def learned() -> LearnedOptimizer:
    networks = [kind(str(optimizer_checkpoint())) for kind in (CheckpointUpdateRNN, CheckpointQueryRNN)]
    return LearnedOptimizer(update=networks[0], query=networks[1], estimator=LearnedSampling(q=3, mu=1e-3))


def szvr_g() -> ZOSZVRG:
    return ZOSZVRG(delta=0.1, estimator=RGE(q=3, mu=1e-3), snapshot=RGE(q=5, mu=1e-3), epoch=2)


RULES = {  # rule -> queries of five iterations and of the last loss
    "learned": (learned, 5 * 4 + 1),
    "szvr_g": (szvr_g, 5 * 7 + 3 * 6 + 1),
    "sign": (lambda: ZOSignSGD(delta=0.1, estimator=RGE(q=3, mu=1e-3)), 5 * 4 + 1),
    "antithetic": (lambda: ZOSGD(delta=0.1, estimator=RGE(q=3, mu=1e-3, antithetic=True)), 5 * 6 + 6),
}


@pytest.mark.parametrize("name", RULES)
def test_an_image_costs_its_check_and_what_the_optimizer_asks(name):
    make, each = RULES[name]
    victim = Logging(NET)
    task = OptimizationTask(victim, make(), iterations=5, trials=3)
    found = task.predict_step(BATCH)
    assert victim.seen == task.queries == 6 + 5 * 3 * each
    assert found["losses"].shape == (5, 6) and found["success"].shape == (5, 1)
    rows = task.measure(**{f"{field}s": BATCH[field] for field in ("image", "label")}, indices=BATCH["index"])
    assert [row["queries"] for row in rows] == [1 + 3 * each] * 2 + [1] + [1 + 3 * each] * 3
    assert [row["index"] for row in rows] == list(range(10, 16)) and "losses" not in rows[2]


def test_descent_of_a_linear_margin_is_known():
    """Two classes, c = 0, exact gradients: the loss falls by lr |w|^2 an iteration, until the hinge is at its floor."""
    weight = torch.tensor([0.5, -0.25, 0.5, 0.25])
    net = Linear(torch.stack([weight, torch.zeros(4)]), torch.tensor([0.0, 0.05]))  # m = w x - .05
    images = torch.tensor([[0.6, 0.4, 0.5, 0.4], [0.5, 0.5, 0.5, 0.5]]).view(2, 1, 2, 2)
    margins = (images.flatten(1).double() @ weight.double() - 0.05).tolist()
    rule = ZOSGD(delta=4 * 0.11, estimator=CGE(mu=1e-2, scheme="forward"))
    task = OptimizationTask(net, rule, iterations=12, trials=2, c=0.0, start_scale=0.0)
    found = task.predict_step({"image": images, "label": torch.tensor([0, 0]), "index": torch.tensor([0, 1])})
    fall = 0.11 * float(weight.square().sum())
    for row, margin in enumerate(margins):
        first = math.ceil(margin / fall)
        assert first == (8, 7)[row]
        known = torch.tensor([max(margin - fall * min(t, first), 0) for t in range(13)], dtype=torch.float64)
        assert torch.allclose(found["losses"][row], known, atol=1e-4)
        assert float(found["iterations to success"][row]) == first and found["success"][row] == 1
        assert float(found["queries to success"][row]) == 1 + 5 * first
        assert float(found["area under the loss"][row]) == pytest.approx(float(known.mean()), abs=1e-4)


def test_optimizers_start_at_the_same_points_and_images_stand_alone():
    first, second = (OptimizationTask(NET, RULES[name][0](), iterations=3, trials=2) for name in ("sign", "szvr_g"))
    one, two = first.predict_step(BATCH), second.predict_step(BATCH)
    assert torch.equal(one["losses"][:, 0], two["losses"][:, 0])
    assert not torch.equal(one["losses"][:, 1], two["losses"][:, 1])
    rows = first.measure(IMAGES, LABELS, BATCH["index"])
    alone = first.measure(IMAGES[4:5], LABELS[4:5], BATCH["index"][4:5])
    assert alone == rows[4:5] and min(rows[4]["spread"]) > 0  # the trials are not one another's copies


class Erring(ZOSGD):
    """Loses the second of its problems."""

    def move(self, gradient, state, *, iteration):
        return -gradient.where(torch.arange(len(gradient)).unsqueeze(1) != 1, torch.nan)


def test_an_image_of_which_a_trial_diverges_is_told_and_left_out():
    rule = {"delta": 0.1, "estimator": RGE(q=3, mu=1e-3)}
    task, whole = (OptimizationTask(NET, kind(**rule), iterations=5, trials=2) for kind in (Erring, ZOSGD))
    rows, others = (one.measure(IMAGES, LABELS, BATCH["index"]) for one in (task, whole))
    assert rows[1] == {"index": 11, "label": int(LABELS[1]), "queries": 1 + 2 * 21, "diverged": 2}
    assert rows[:1] + rows[2:] == others[:1] + others[2:] and len(task.predict_step(BATCH)["losses"]) == 4
    broken = learned()
    broken.update.output.weight.data.fill_(torch.nan)
    assert OptimizationTask(NET, broken, iterations=2, trials=1).predict_step(BATCH) == {}


def test_rows_on_disk_are_not_measured_again(tmp_path):
    halves = [{name: values[part] for name, values in BATCH.items()} for part in (slice(0, 4), slice(4, 6))]

    def task() -> OptimizationTask:
        task = OptimizationTask(Logging(NET), RULES["sign"][0](), iterations=5, trials=2)
        task.rows = ImageRows(tmp_path / "rows.jsonl", {"c": 0.1})
        return task

    first = task()
    whole = [first.predict_step(half) for half in halves]
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    each = 1 + 2 * 21
    for kept, torn, again in ((7, "", 0), (5, lines[5][:40], 2 * each), (4, "", 1 + 5 * each)):
        (tmp_path / "rows.jsonl").write_text("\n".join(lines[:kept]) + "\n" + torn)
        second = task()
        parts = [second.predict_step(half) for half in halves]
        assert second.victim.seen == again and second.queries == first.queries == 1 + 5 * each
        assert all(torch.equal(one[name], two[name]) for one, two in zip(whole, parts, strict=True) for name in one)
        assert sorted((tmp_path / "rows.jsonl").read_text().splitlines()) == sorted(lines)


def test_one_argument_after_the_other_keeps_its_best():
    tried = []

    def loss_of(arguments):
        tried.append((arguments["delta"], tuple(arguments["betas"])))
        return math.inf if arguments["delta"] > 50 else abs(math.log(arguments["delta"] / 4)) + arguments["betas"][0]

    tuning = Tuning(values={"delta": [0.1, 1, 10, 100], "betas": [[0.99, 0.9], [0.5, 0.9]]}, line=[0.2, 0.4, 2, 4])
    best = search(tuning, {"delta": 50, "betas": (0.9, 0.996), "p": 0.5}, loss_of)
    assert best == {"delta": 4.0, "betas": [0.5, 0.9]}
    assert tried[0] == (50, (0.9, 0.996)) and [delta for delta, _ in tried[1:5]] == [0.1, 1, 10, 100]
    assert [delta for delta, _ in tried[5:10]] == [10, 2.0, 4.0, 20, 40]  # 10 is remembered by the caller
    assert {delta for delta, _ in tried[10:]} == {4.0}
    assert search(Tuning(values={"delta": [2]}), {"delta": 1}, lambda arguments: math.inf) == {"delta": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": {"delta": []}}, "tuning.values.delta must have at least one value"),
        ({"line": [2.0]}, r"tuning.line must be factors > 0 of the first of tuning.values, got \[2.0\]"),
        ({"values": {"delta": [1]}, "line": [0.0]}, r"tuning.line must be factors > 0"),
        ({"problems": 0}, "tuning.problems must be at least 1, got 0"),
    ],
)
def test_bad_tunings_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Tuning(**options)


RULE = ["--rule", "ZOSGD", "--rule.delta", "100", "--rule.estimator", "RGE", "--rule.estimator.q", "2"]
RULE += ["--rule.estimator.mu", "1e-3", "--iterations", "4", "--trials", "2", "--images.count", "7"]
TUNED = ["--tuning.values", '{"delta": [0.1, 1.0]}', "--tuning.line", "[2.0]", "--tuning.problems", "3"]


def test_the_command_tunes_then_measures_and_goes_on_where_it_was_killed(tmp_path, capsys):
    words = [*RULE, *TUNED, "--batch_size", "4", *counted(tmp_path / "log")]
    study = run(OptimizationCLI, *words)
    told = json.loads((study.folder / "study.json").read_text())
    assert study.folder.name == "Counted-optimization-ZOSGD"
    trials, rows = told["tuning"]["trials"], (study.folder / "rows.jsonl").read_text().splitlines()
    losses = {trial["arguments"]["delta"]: trial["loss"] for trial in trials}
    assert list(losses)[:3] == [100, 0.1, 1.0] and len(losses) == 4
    assert list(losses)[3] == 2 * min(list(losses)[:3], key=losses.get)
    assert told["tuning"]["chosen"] == {"delta": min(losses, key=losses.get)}
    assert [trial["queries"] for trial in trials] == [3 * (4 * 3 + 1)] * 4
    right = [json.loads(row) for row in rows[1:] if "losses" in row]
    assert told["n"] == len(right) and told["queries"] == 7 + len(right) * 2 * 13
    assert told["asked"] == [0, 3, 6, 9, 12] and told["x"]["values"] == [0, 1, 2, 3, 4]
    figures = {figure["name"]: figure["values"][0] for figure in told["figures"]}
    final = [row["losses"][-1] for row in right]
    assert figures["final loss"] == pytest.approx(sum(final) / len(final))
    assert "4 trials on 3 training problems, 156 queries beside" in told["notes"][-1]
    before = asked(tmp_path / "log")
    run(OptimizationCLI, *words)
    assert "measured already" in capsys.readouterr().out and asked(tmp_path / "log") == before
    # Killed after two trials, and once more after the first batch.
    lines = (study.folder / "tuning.jsonl").read_text().splitlines()
    chosen = before - sum(trial["queries"] for trial in trials) - told["queries"]  # to find images that it gets right
    for file, kept, again in (("tuning.jsonl", 3, 2 * 39), ("rows.jsonl", 5, None)):
        whole = (study.folder / "study.json").read_bytes()
        (study.folder / "study.json").unlink()
        (study.folder / file).write_text("\n".join((lines if file == "tuning.jsonl" else rows)[:kept]) + "\n{to")
        run(OptimizationCLI, *words)
        assert (study.folder / "study.json").read_bytes() == whole
        lost = again if again is not None else sum(json.loads(row)["queries"] for row in rows[5:])
        assert asked(tmp_path / "log") == before + chosen + lost
        before = asked(tmp_path / "log")


def test_an_argument_that_the_rule_does_not_take_is_refused_at_the_start(tmp_path, last_line):
    for values, message in (
        ('{"detla": [1.0]}', "tuning.values.detla 1.0 is refused"),
        ('{"delta": [1.0, -1.0]}', "tuning.values.delta -1.0 is refused: delta, the learning rate times"),
    ):
        line = last_line(OptimizationCLI, *RULE, "--tuning.values", values, *counted(tmp_path / "log"))
        assert message in line and asked(tmp_path / "log") == 0
    line = last_line(OptimizationCLI, *RULE, "--trials", "0", *counted(tmp_path / "log"))
    assert "trials must be at least 1, got 0" in line


def cell(method, loss, delta=None):
    line = {"name": "loss", "values": [2.0, loss], "low": [1.5, loss - 0.5], "high": [2.5, loss + 0.5]}
    figure = {"name": "final loss", "values": [loss], "low": [loss - 0.5], "high": [loss + 0.5]}
    told = {"n": 9, "lines": [line], "figures": [figure], "x": {"values": [0, 1]}, "asked": [0, 21]}
    return SimpleNamespace(method=method, measured=told | ({"tuning": {"chosen": delta}} if delta else {}))


def test_figures_stand_in_a_table_and_losses_in_a_picture():
    cells = [cell("ZO-LSTM", 1.0), cell("ZO-ADAM", 1.25, {"delta": 8.0, "betas": [0.9, 0.996]})]
    table = figures_table(cells)
    assert table.to_numpy().tolist() == [
        ["ZO-LSTM", "9", "1 [0.5, 1.5]", "-"],
        ["ZO-ADAM", "9", "1.25 [0.75, 1.75]", "delta 8, betas 0.9 0.996"],
    ]
    assert list(figures_table(cells[:1])) == ["method", "n", "final loss [95 % CI]"]
    for over, last in (("iterations", 1), ("queries", 21)):
        (axes,) = losses_figure(cells, over).get_axes()
        ends = {(float(line.get_xdata()[-1]), float(line.get_ydata()[-1])) for line in axes.get_lines()}
        assert ends >= {(last, 1.0), (last, 1.25)}
    other = cell("other", 1.0)
    other.measured["figures"][0]["name"] = "area"
    with pytest.raises(ValueError, match="other has other figures than ZO-LSTM: measure it anew"):
        figures_table([cells[0], other])


def study_cells(tmp_path):
    """Published studies of two optimizers at sizes of 4, 16 and 64 coordinates."""
    figures = [
        {"name": name, "values": [level], "low": [level - 0.1], "high": [level + 0.1]}
        for name, level in (("final loss", 2.0), ("success", 0.5))
    ]
    experiment, plan = study_experiment(tmp_path / "runs", figures=figures, asked=[0, 21, 42])
    base = build_cell(experiment, plan, experiment.rows[0], tmp_path)
    for name in ("SGD", "ADAM"):
        for side in (8, 2, 4):
            settings = {**base.config["settings"], "size": [side, side], "rule.class_path": name}
            yield replace(base, method=f"{name}, {side}", config={**base.config, "settings": settings})


def test_figures_are_drawn_against_a_size_and_losses_of_published_cells(tmp_path):
    cells = list(study_cells(tmp_path))
    figure = draw_picture(Picture("figures", over="size"), cells, tmp_path)
    assert [axes.get_ylabel() for axes in figure.axes] == ["final loss", "success"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SGD", "ADAM"]
    for axes, value in zip(figure.axes, (2.0, 0.5), strict=True):
        drawn = [line for line in axes.lines if line.get_marker() == "o"]
        assert [line.get_xdata().tolist() for line in drawn] == [[4, 16, 64]] * 2 and axes.get_xscale() == "log"
        assert {y for line in drawn for y in line.get_ydata()} == {value}
    picture = Picture("losses", over="queries")
    (axes,) = draw_picture(picture, cells[:1], tmp_path).axes
    assert axes.lines[0].get_xdata().tolist() == [0, 21, 42] and axes.lines[0].get_ydata().tolist() == [3, 2, 1]
    assert source_hash(picture, cells[:1]) != source_hash(Picture("losses", over="iterations"), cells[:1])
    table = table_markdown("study", "Somebody", cells)
    assert "final loss [95 % CI]" in table and "2 [1.9, 2.1]" in table
    with pytest.raises(ValueError, match="size of SGD, 8 is 'small': only numbers can stand on an axis"):
        settings = {**cells[0].config["settings"], "size": "small"}
        wrong = replace(cells[0], config={**cells[0].config, "settings": settings})
        draw_picture(Picture("figures", over="size"), [wrong], tmp_path)


def test_the_figure_of_the_paper_is_planned():
    """The QueryRNN beside the UpdateRNN, both of one victim; the optimizers of the studies are of those checkpoints."""
    experiment = load_experiment(FIGURE, "digits")
    stages = {stage.name: stage for stage in make_plan(experiment, "digits", file=FIGURE).stages}
    assert stages["query"].parents == ["standard", "update"] and stages["loss-zo_lstm"].parents == ["standard", "query"]
    assert stages["query"].folder.parent.name == "train-optimizer"
    words = stages["loss-zo_lstm"].commands[0]
    for option, kind in (("update", "CheckpointUpdateRNN"), ("query", "CheckpointQueryRNN")):
        path = str(stages["query"].folder / "checkpoints" / "best.ckpt")
        told = json.loads(words[words.index(f"--rule.{option}") + 1])
        assert told == {"class_path": kind, "init_args": {"checkpoint": path}}
    tuned = {row.stage for row in experiment.rows if "tuning.values" in experiment.stages[row.stage].options}
    assert {row.stage for row in experiment.rows} - tuned == {"loss-zo_lstm", "loss-no_query", "loss-guided_es"}
    grids = [experiment.stages[name].options["tuning.values"]["delta"] for name in tuned]
    assert all(grid == [0.01, 0.1, 1, 10, 100, 1000] for grid in grids)
