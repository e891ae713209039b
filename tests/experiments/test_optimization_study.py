"""The study of optimizers: closed forms of its figures, what it asks, what it tunes, and that a killed one goes on."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml

from experiments.loading import load_experiment
from experiments.plan import make_plan
from experiments.studies.image_rows import ImageRows
from experiments.studies.optimization import OptimizationCLI, OptimizationTask
from experiments.studies.tuning import Tuning, check_tuning, search
from tests.runs import asked, counted, optimizer_checkpoint, run
from tests.victims import Linear, Logging, Moody, random_linear
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
    assert found["index"].tolist() == [[10], [11], [13], [14], [15]]
    rows = task.measure(BATCH)
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
    rows = first.measure(BATCH)
    alone = first.measure({name: values[4:5] for name, values in BATCH.items()})
    assert alone == rows[4:5] and min(rows[4]["spread"]) > 0  # the trials are not one another's copies


class Erring(ZOSGD):
    """Loses the second of its problems."""

    def move(self, gradient, state, *, iteration):
        return -gradient.where(torch.arange(len(gradient)).unsqueeze(1) != 1, torch.nan)


def test_an_image_of_which_a_trial_diverges_is_told_and_left_out():
    rule = {"delta": 0.1, "estimator": RGE(q=3, mu=1e-3)}
    task, whole = (OptimizationTask(NET, kind(**rule), iterations=5, trials=2) for kind in (Erring, ZOSGD))
    rows, others = (one.measure(BATCH) for one in (task, whole))
    assert rows[1] == {"index": 11, "label": int(LABELS[1]), "queries": 1 + 2 * 21, "diverged": 2}
    assert rows[:1] + rows[2:] == others[:1] + others[2:] and len(task.predict_step(BATCH)["losses"]) == 4
    moody = OptimizationTask(Moody(NET, IMAGES[1]), ZOSGD(**rule), iterations=5, trials=2)
    assert moody.measure(BATCH) == [others[0], rows[1], *others[2:]]  # the victim cannot be read there
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
    with pytest.raises(ValueError, match=r"the rule diverges with all of tuning.values \{'delta': \[2\]\}"):
        search(Tuning(values={"delta": [2]}), {"delta": 1}, lambda arguments: math.inf)


def test_what_a_line_would_try_is_checked_before_anything_is_asked():
    estimator = {"class_path": "CGE", "init_args": {"mu": 0.1}}
    described = {"class_path": "ZOAdam", "init_args": {"delta": 1.0, "estimator": estimator}}
    with pytest.raises(ValueError, match=r"tuning.line has factors of numbers, but tuning.values begins with betas"):
        check_tuning(Tuning(values={"betas": [[0.9, 0.99]], "delta": [1]}, line=[0.5]), described)
    with pytest.raises(ValueError, match=r"tuning.values.eps -0.5 is refused: .*eps must be > 0"):
        check_tuning(Tuning(values={"delta": [1], "eps": [0.1, -0.5]}), described)
    learned = {"class_path": "ZOSGD", "init_args": {**described["init_args"], "p": 0.5}}
    with pytest.raises(ValueError, match=r"tuning.values.p 2.0 is refused: .*in \[0, 1\], got 2.0"):
        check_tuning(Tuning(values={"p": [0.5]}, line=[4.0]), learned)


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
    figures = {figure["name"]: figure["values"][0] for figure in told["summary"]}
    final = [row["losses"][-1] for row in right]
    assert figures["final loss"] == pytest.approx(sum(final) / len(final))
    assert told["by_index"]["final loss"] == final and told["by_index"]["index"] == [row["index"] for row in right]
    assert list(told["by_index"]) == ["index", *figures]
    assert told["single"] == {key: [row[key] for row in right[:4]] for key in ("index", "losses", "spread")}
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


def test_the_factor_of_a_trained_optimizers_updates_is_tuned(tmp_path):
    """Finetuning to another victim (sect. 4.3): the study is that of the factor that was best on training problems."""
    words = ["--rule", "LearnedOptimizer", "--rule.update", "CheckpointUpdateRNN"]
    words += ["--rule.update.checkpoint", str(optimizer_checkpoint()), "--rule.estimator", "LearnedSampling"]
    words += ["--rule.estimator.q", "2", "--rule.estimator.mu", "1e-3", *RULE[10:], *counted(tmp_path / "log")]
    tuned = ["--tuning.values", '{"alpha": [0.01, 100]}', "--tuning.line", "[0.5]", "--tuning.problems", "3"]
    study = run(OptimizationCLI, *words, *tuned, "--run.name", "tuned")
    told = json.loads((study.folder / "study.json").read_text())["tuning"]
    losses = {trial["arguments"]["alpha"]: trial["loss"] for trial in told["trials"]}
    assert list(losses)[:3] == [1.0, 0.01, 100] and list(losses)[3] == min(list(losses)[:3], key=losses.get) / 2
    best = min(losses, key=losses.get)
    assert told["chosen"] == {"alpha": best} and best != 1
    fixed = run(OptimizationCLI, *words, "--rule.alpha", str(best), "--run.name", "fixed")
    assert curves(fixed) == curves(study)


def curves(study) -> list[list[float]]:
    rows = [json.loads(row) for row in (study.folder / "rows.jsonl").read_text().splitlines()[1:]]
    return [row["losses"] for row in rows if "losses" in row]


def test_an_argument_that_the_rule_does_not_take_is_refused_at_the_start(tmp_path, last_line):
    for values, message in (
        ('{"detla": [1.0]}', "tuning.values.detla 1.0 is refused"),
        ('{"delta": [1.0, -1.0]}', "tuning.values.delta -1.0 is refused: delta, the learning rate times"),
    ):
        line = last_line(OptimizationCLI, *RULE, "--tuning.values", values, *counted(tmp_path / "log"))
        assert message in line and asked(tmp_path / "log") == 0
    line = last_line(OptimizationCLI, *RULE, "--trials", "0", *counted(tmp_path / "log"))
    assert "trials must be at least 1, got 0" in line


def test_trainings_of_equal_queries_ask_as_much():
    """A step of a window asks q + 1 and what the meta-gradient needs; other trainings have as many windows."""
    experiment = load_experiment(FIGURE.with_name("meta_gradients_digits.yaml"), "digits")
    windows = yaml.safe_load((FIGURE.parents[2] / "optimizer/digits_attack.yaml").read_text())["data"]["init_args"]
    each = {"autograd": 21 + 1, "pes_queries": 2 * (21 + 1), "es_queries": 3 * 21 + 2}
    asked = {}
    for name, queries in each.items():
        options = experiment.stages[name].options
        asked[name] = queries * options.get("data.init_args.windows", windows["windows"])
    assert asked["pes_queries"] == asked["autograd"] == pytest.approx(asked["es_queries"], rel=0.01)


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
