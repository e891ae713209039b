"""The studies against closed forms, plain loops and attacks run by hand."""

import json
import math

import numpy as np
import pytest
import torch

from experiments.studies.damping import START, DampingCLI, DampingTask, losses_after, variant, variants
from experiments.studies.probabilities import NORMS, PROBABILITY, ProbabilitiesCLI, ProbabilitiesTask, fisher_norms
from experiments.studies.study import curve
from tests.runs import asked, counted, run
from tests.victims import Linear, Logging, random_linear
from zeroth.attacks import ZONGD
from zeroth.estimators import combine, slopes
from zeroth.oracles import ImageStreams, ScoreOracle
from zeroth.oracles.goal import margin
from zeroth.oracles.streams import unit

NET = random_linear(5, 16)
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = NET(IMAGES).argmax(1)
INDICES = torch.arange(6) + 40
PAPER = ZONGD(
    epsilon=0.3, samples=8, mu=0.5, learning_rate=0.02, damping=0.1, step="natural", cells=None, accept="iterates"
)


def batch_of(images=IMAGES, labels=LABELS, indices=INDICES) -> dict[str, torch.Tensor]:
    return {"image": images, "label": labels, "index": indices}


def slow_loss(attack: ZONGD, row: int, iterations: int, seed: int) -> float:
    """The loss of eq. 2 after so many iterations of eq. 19, one image, every probe asked by itself."""

    def log_p(point: torch.Tensor) -> torch.Tensor:
        return NET(point.clamp(0, 1).reshape(1, 1, 4, 4))[0].log_softmax(0).float()

    def loss(answer: torch.Tensor) -> torch.Tensor:
        return margin(answer, LABELS[row]).clamp_min(0)

    clean, streams = IMAGES[row].flatten(), ImageStreams(seed, [int(INDICES[row])])
    point = clean.clone()
    for _ in range(iterations):
        u = unit(streams.randn(torch.tensor([0]), (attack.samples, 16)))[0]
        base, probes = log_p(point), torch.stack([log_p(point + attack.mu * step) for step in u])
        gradient = 16 / attack.samples * (u * ((loss(probes) - loss(base)) / attack.mu).unsqueeze(1)).sum(0)
        own = (probes[:, LABELS[row]] - base[LABELS[row]]) / attack.mu
        score = 16 / attack.samples * (u * own.unsqueeze(1)).sum(0)
        if attack.fisher != "none":
            matrix = torch.outer(score, score).double() + attack.damping * torch.eye(16)
            gradient = torch.linalg.solve(matrix, gradient.double()).float()
        moved = (point - clean - attack.learning_rate * gradient).clamp(-attack.epsilon, attack.epsilon)
        point = (clean + moved).clamp(0, 1)
    return float(loss(log_p(point)))


@pytest.mark.parametrize("fisher", ["outer_product", "none"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_the_loss_is_that_of_a_plain_loop_over_equation_19(fisher, iterations):
    attack = variant(PAPER, fisher=fisher)
    net = Logging(NET)
    before, after = losses_after(
        attack, ScoreOracle(net), IMAGES, LABELS, iterations=iterations, seed=3, indices=INDICES
    )
    expected = torch.tensor([slow_loss(attack, row, iterations, 3) for row in range(6)])
    assert torch.allclose(after, expected, atol=1e-4)
    assert torch.allclose(before, margin(NET(IMAGES).log_softmax(1).float(), LABELS))
    assert net.seen == 6 + 6 * iterations * (8 + 1)


def test_an_image_that_is_adversarial_early_goes_on_and_counts():
    sure = variant(PAPER, learning_rate=1.0, iterations=1)
    first = sure(ScoreOracle(NET), IMAGES, LABELS, budget=1000, seed=0, indices=INDICES)
    assert first.success.any()  # after one iteration; a run that stopped there would ask less
    net = Logging(NET)
    _, after = losses_after(sure, ScoreOracle(net), IMAGES, LABELS, iterations=3, seed=0, indices=INDICES)
    assert net.seen == 6 + 6 * 3 * 9
    expected = torch.tensor([slow_loss(sure, row, 3, 0) for row in range(6)])
    assert torch.allclose(after, expected, atol=1e-4)


def test_it_is_the_iterate_that_the_attack_by_hand_ends_at():
    attack = variant(PAPER, learning_rate=0.002, iterations=2)
    net = Logging(NET)
    result = attack(ScoreOracle(net), IMAGES, LABELS, budget=1 + 2 * 9, seed=5, indices=INDICES)
    assert not result.success.any() and result.reason == ["budget"] * 6
    last = net.asked[-6:]  # every image is in play to the end: the last request holds one iterate of each
    _, after = losses_after(attack, ScoreOracle(NET), IMAGES, LABELS, iterations=2, seed=5, indices=INDICES)
    assert torch.allclose(after, margin(NET(last).log_softmax(1).float(), LABELS))


def test_images_that_are_wrong_at_first_are_asked_once_and_left_out():
    labels = LABELS.clone()
    labels[[0, 4]] = (labels[[0, 4]] + 1) % 5
    net = Logging(NET)
    _, some = losses_after(PAPER, ScoreOracle(net), IMAGES, labels, iterations=2, seed=0, indices=INDICES)
    _, all_ = losses_after(PAPER, ScoreOracle(NET), IMAGES, LABELS, iterations=2, seed=0, indices=INDICES)
    assert torch.equal(some, all_[[1, 2, 3, 5]])
    assert net.seen == 6 + 4 * 2 * 9


def test_the_lines_of_a_natural_step_meet_where_they_should():
    lines = variants(PAPER, [0.1, 1e6])
    (_, fixed), (_, kept), (_, plain) = lines.items()
    assert list(lines) == [
        "natural gradient, lambda = 0.02",
        "natural gradient, lambda = 0.2 gamma",
        "gradient, lambda = 0.2",
    ]
    task = DampingTask(NET, lines, iterations=2)
    found = task.predict_step(batch_of())
    losses = [found[name] for name in lines]
    assert torch.equal(losses[0][:, 0], losses[1][:, 0])  # the attack's own gamma is on both
    assert torch.allclose(losses[0][:, 1:], found[START], atol=1e-3)  # lambda / gamma = 2e-8: it stands still
    assert torch.allclose(losses[1][:, 1:], losses[2], atol=1e-3)  # all damping and no matrix: the plain gradient
    assert task.queries == (2 + 2 + 1) * (6 + 6 * 2 * 9)
    assert [len(attacks) for attacks in (fixed, kept, plain)] == [2, 2, 1]


def test_a_sign_step_has_one_line_and_its_reference():
    lines = variants(variant(PAPER, step="sign"), [1e-3, 1e6])
    assert list(lines) == ["sign of the natural gradient", "sign of the gradient"]
    found = DampingTask(NET, lines, iterations=1).predict_step(batch_of())
    assert torch.allclose(found["sign of the natural gradient"][:, 1:], found["sign of the gradient"], atol=1e-5)


def test_curve_is_the_mean_with_an_interval_inside_the_range():
    rng = np.random.default_rng(0)
    values = np.stack([rng.normal(2, 0.5, 400), np.full(400, 0.25), (np.arange(400) == 0) * 1.0], 1)
    told = curve("a", values, seed=1)
    assert np.allclose(told["values"], values.mean(0))
    half = 1.96 * values[:, 0].std() / math.sqrt(400)
    assert told["low"][0] == pytest.approx(values[:, 0].mean() - half, abs=0.1 * half)
    assert told["high"][0] == pytest.approx(values[:, 0].mean() + half, abs=0.1 * half)
    assert told["low"][1] == told["high"][1] == 0.25
    assert told["low"][2] == 0 < told["values"][2] < told["high"][2] < 0.02
    assert told == curve("a", values, seed=1)
    with pytest.raises(ValueError, match="1 are left to measure"):
        curve("a", values[:1], seed=1)


def test_probabilities_are_sorted_and_sum_to_one():
    labels = LABELS.clone()
    labels[1] = (labels[1] + 1) % 5
    net = Logging(NET)
    task = ProbabilitiesTask(net, correct=4, samples=3, mu=0.1)
    found = task.predict_step(batch_of(labels=labels))
    expected = NET(IMAGES[[0, 2, 3, 4]]).softmax(1).sort(1, descending=True).values  # the first 4 of the right ones
    assert torch.allclose(found[PROBABILITY].double(), expected, atol=1e-6)
    assert torch.allclose(found[PROBABILITY].sum(1), torch.ones(4))
    assert task.queries == net.seen == 6 + 4 * 3
    assert task.predict_step(batch_of(labels=labels)) == {} and net.seen == 6 + 4 * 3  # enough: nothing more is asked


def test_fisher_norms_are_those_of_the_matrices_themselves():
    streams = ImageStreams(0, INDICES)
    u = streams.sphere(torch.arange(6), (7, 16))
    base = NET(IMAGES).log_softmax(1).float()
    points = (IMAGES.flatten(1).unsqueeze(1) + 0.1 * u).clamp(0, 1)
    answers = torch.stack([NET(points[:, j]).log_softmax(1).float() for j in range(7)], 1)
    distance, share = fisher_norms(base, answers, u, LABELS, 0.1)
    scores = combine(u, slopes(answers, base, 0.1), 16).double()  # (B, K, D), eq. 17
    whole = torch.einsum("bk,bkd,bke->bde", base.exp().double(), scores, scores)
    own = scores[torch.arange(6), LABELS]
    one = torch.einsum("bd,be->bde", own, own)
    norm = torch.linalg.matrix_norm
    assert torch.allclose(distance, norm(one - whole) / norm(whole), rtol=1e-5)
    assert torch.allclose(share, norm(one) / norm(whole), rtol=1e-5)


@pytest.mark.parametrize("gap", [0.5, 3.0])
def test_with_two_classes_the_outer_product_shrinks_as_the_label_dominates(gap):
    """Score vectors are (1 - p) g and -p g, so eq. 9 is p (1 - p) g g^T and eq. 12 is (1 - p)^2 g g^T."""
    weight = torch.randn(1, 16, generator=torch.Generator().manual_seed(2))
    image = torch.full((1, 1, 4, 4), 0.5)
    net = Linear(torch.cat([weight, -weight]), torch.tensor([gap, 0.0]) - torch.cat([weight, -weight]).sum(1) * 0.5)
    p = torch.tensor(gap).sigmoid().item()
    task = ProbabilitiesTask(net, correct=1, samples=5, mu=1e-3)
    found = task.predict_step(batch_of(image, torch.tensor([0]), torch.tensor([0])))
    assert found[PROBABILITY][0].tolist() == pytest.approx([p, 1 - p], abs=1e-6)
    share = (1 - p) / p
    assert found[NORMS][0].tolist() == pytest.approx([1 - share, share], rel=0.02)


def told_by(folder) -> dict:
    return json.loads((folder / "study.json").read_text())


def test_damping_command(tmp_path, capsys):
    log = tmp_path / "asked"
    words = [*counted(log), "--run.name", "a", "--images.count", "30", "--batch_size", "20", "--seed", "4"]
    words += ["--attack", "configs/attack/zo_ngd_paper.yaml", "--attack.samples", "5", "--dampings", "0.001", "0.1"]
    cli = run(DampingCLI, *words)
    told = told_by(tmp_path / "study" / "a")
    n = told["n"]
    assert told["study"] == "damping" and told["kind"] == "lines" and told["seed"] == 4 and 2 <= n <= 30
    assert told["x"] == {"name": "damping gamma", "values": [0.001, 0.1], "log": True}
    assert told["queries"] == asked(log) == 5 * (30 + n * 2 * 6)
    assert told["lines"][0]["name"] == START and len(told["lines"]) == 4
    level = told["lines"][3]
    assert level["values"][0] == level["values"][1] and level["low"][0] == level["low"][1]
    # The same by one call of the attack's class.
    data = cli.data.data.dataset("test")
    items = [data[place] for place in range(30)]
    attack = variant(cli.config_init.attack, damping=0.1)
    _, losses = losses_after(
        attack,
        ScoreOracle(cli.task.victim),
        torch.stack([item["image"] for item in items]),
        torch.tensor([int(item["label"]) for item in items]),
        iterations=2,
        seed=4,
        indices=torch.tensor([int(item["index"]) for item in items]),
    )
    assert len(losses) == n and told["lines"][1]["values"][1] == pytest.approx(losses.mean().item(), abs=1e-4)

    before = asked(log)
    kept = (tmp_path / "study" / "a" / "study.json").read_bytes()
    run(DampingCLI, *words)
    assert asked(log) == before and "measured already" in capsys.readouterr().out
    assert (tmp_path / "study" / "a" / "study.json").read_bytes() == kept


def test_probabilities_command(tmp_path):
    log = tmp_path / "asked"
    words = [*counted(log), "--run.name", "p", "--batch_size", "25", "--samples", "4", "--correct", "40"]
    run(ProbabilitiesCLI, *words)
    told = told_by(tmp_path / "study" / "p")
    assert told["n"] == 40 and told["x"]["values"] == list(range(1, 11)) and told["kind"] == "bars"
    assert sum(told["lines"][0]["values"]) == pytest.approx(1, abs=1e-5)
    assert told["queries"] == asked(log) == 50 + 40 * 4  # two batches hold 40 that are right
    assert [figure["name"] for figure in told["figures"]][1] == "norm of eq. 12 over the norm of eq. 9"
    # A study that was killed has no study.json: the same command measures it anew.
    (tmp_path / "study" / "p" / "study.json").unlink()
    run(ProbabilitiesCLI, *words)
    assert told_by(tmp_path / "study" / "p") == told


def test_other_settings_are_refused(tmp_path, last_line):
    words = [*counted(tmp_path / "asked"), "--run.name", "p", "--correct", "5", "--samples", "2", "--batch_size", "20"]
    run(ProbabilitiesCLI, *words)
    assert "was made with mu = 1.0, this run has 0.5" in last_line(ProbabilitiesCLI, *words, "--mu", "0.5")


WRONG = {
    "another attack": (
        DampingCLI,
        ["--attack", "NESPGD"],
        "attack must be ZONGD, whose damping is studied, got NESPGD",
    ),
    "no Fisher matrix": (DampingCLI, ["--attack", "ZONGD", "--attack.fisher", "none"], "attack.fisher is none"),
    "no gamma": (DampingCLI, ["--attack", "ZONGD", "--dampings"], "dampings: expected at least one argument"),
    "gamma 0": (DampingCLI, ["--attack", "ZONGD", "--dampings", "0"], "damping must be > 0, got 0"),
    "iterations 0": (DampingCLI, ["--attack", "ZONGD", "--iterations", "0"], "iterations must be at least 1, got 0"),
    "shard": (ProbabilitiesCLI, ["--shard", "1/2"], "unknown option --shard 1/2"),
    "correct 0": (ProbabilitiesCLI, ["--correct", "0"], "correct must be at least 1, got 0"),
    "mu 0": (ProbabilitiesCLI, ["--mu", "0"], "mu must be > 0 in [0, 1] pixels, got 0"),
    "too few": (ProbabilitiesCLI, ["--correct", "31", "--images.count", "30"], "lower --correct or raise"),
}


@pytest.mark.parametrize(("command", "words", "message"), WRONG.values(), ids=WRONG)
def test_faults(last_line, command, words, message):
    assert message in last_line(command, "--victim", "DigitsCNN", "--data", "Digits", *words)
