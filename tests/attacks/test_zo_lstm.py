"""ZO-LSTM against its recurrences one coordinate at a time, its books, and the networks that ship."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from callbacks.lineage import write_lineage
from cli import AttackCLI
from experiments import ship_optimizer
from tests.attacks.promises import an_image_stands_alone
from tests.runs import asked, counted, optimizer_checkpoint
from tests.runs import run as run_command
from tests.victims import Logging, random_linear
from zeroth.attacks import LearnedZO
from zeroth.networks import CheckpointQueryRNN, CheckpointUpdateRNN, checkpoint_rnns
from zeroth.oracles import ImageStreams, Journal, ScoreOracle
from zeroth.records import merge_records
from zeroth.records.schema import file_sha256

NET = random_linear(5, 16)
IMAGES = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
LABELS = NET(IMAGES).argmax(1)


@pytest.fixture(scope="module")
def checkpoint():
    return str(optimizer_checkpoint())


def slow_cell(network, seen, memory):
    """One coordinate after the other through torch's own LSTMCell."""
    rows = [network.cell(seen[:, i].unsqueeze(0), memory[i]) for i in range(seen.shape[1])]
    return torch.cat([network.output(hidden)[0] for hidden, _ in rows]), rows


@pytest.mark.parametrize("form", ["clamp", "tanh"])
@torch.no_grad()
def test_points_are_those_of_the_recurrences(checkpoint, form):
    """The slow obvious reference: replay the draws of one image, iteration by iteration."""
    q, mu, alpha, c, iterations = 3, 1e-3, 0.7, 0.2, 4
    victim = Logging(NET)
    attack = LearnedZO(
        checkpoint=checkpoint, q=q, mu=mu, p=1.0, alpha=alpha, c=c, norm="l2", form=form, iterations=iterations
    )
    image, label = IMAGES[:1], int(LABELS[0])
    attack(ScoreOracle(victim), image, LABELS[:1], budget=1000, seed=5)
    asked = victim.asked.flatten(1)
    assert len(asked) == 1 + iterations * (q + 1) + 1

    def pixels(theta):
        if form == "clamp":
            return (image.flatten() + theta).clamp(0, 1)
        return (1 + (torch.atanh((2 * image.flatten().double() - 1) * 0.999999).float() + theta).tanh()) / 2

    def f(theta):
        log_p = NET(pixels(theta).view(1, 1, 4, 4)).log_softmax(1)[0]
        margin = log_p[label] - torch.cat([log_p[:label], log_p[label + 1 :]]).max()
        return float(margin.clamp_min(0)) + c * float((pixels(theta) - image.flatten()).norm())

    update, query = CheckpointUpdateRNN(checkpoint), CheckpointQueryRNN(checkpoint)
    streams, row = ImageStreams(5, [0]), torch.zeros(1, dtype=torch.int64)
    theta = 1e-4 * streams.randn(row, (16,))[0]
    gradient = change = torch.zeros(16)
    blank = [(torch.zeros(1, 4), torch.zeros(1, 4))] * 16
    seen, moved = list(blank), list(blank)
    place = 1
    for _ in range(iterations):
        assert torch.allclose(asked[place], pixels(theta), atol=1e-6)
        offset, seen = slow_cell(query, torch.stack([gradient, change]), seen)
        sigma = (1 + offset) * 4 / (1 + offset).norm()
        streams.randn(row, ())  # decides whether sigma is followed; here it always is
        z = streams.randn(row, (q, 16))[0]
        for i in range(q):
            assert torch.allclose(asked[place + 1 + i], pixels(theta + mu * sigma.abs() * z[i]), atol=1e-6)
        slopes = [(f(theta + mu * sigma.abs() * z[i]) - f(theta)) / mu for i in range(q)]
        gradient = sigma.abs() * sum(slope * z[i] for i, slope in enumerate(slopes)) / q
        step, moved = slow_cell(update, gradient.unsqueeze(0), moved)
        change = alpha * step
        theta, place = theta + change, place + q + 1
    assert torch.allclose(asked[place], pixels(theta), atol=1e-4)
    assert (theta.abs() > 1e-2).any() and (sigma.abs() - 1).abs().max() > 0.1  # else nothing was compared


def test_what_remains_of_a_budget_is_an_iterate_or_is_not_asked(checkpoint):
    for budget, spent in ((1, 1), (2, 2), (5, 2), (6, 6), (9, 6), (10, 10)):
        result = LearnedZO(checkpoint=checkpoint, q=3)(ScoreOracle(NET), IMAGES, LABELS, budget=budget, seed=0)
        assert result.queries.tolist() == [spent] * 3, budget


def test_an_image_stands_alone_and_a_diverged_one_leaves(checkpoint, tmp_path):
    an_image_stands_alone(LearnedZO(checkpoint=checkpoint, q=2, mu=1e-3), NET, IMAGES, LABELS, budget=40)
    held = torch.load(checkpoint)
    held["state_dict"]["rule.update.output.weight"] *= torch.nan
    torch.save(held, tmp_path / "nan.ckpt")
    result = LearnedZO(checkpoint=str(tmp_path / "nan.ckpt"))(ScoreOracle(NET), IMAGES, LABELS, budget=99, seed=0)
    assert result.reason == ["not finite"] * 3


class Power(BaseException):
    """The plug is pulled."""


class Fragile(Logging):
    def forward(self, images):
        if self.seen + len(images) > 50:
            raise Power
        return super().forward(images)


def test_a_killed_call_goes_on_by_its_journal(checkpoint, tmp_path):
    def go(victim):
        journal = Journal.open(tmp_path / "journal", {})
        try:
            attack = LearnedZO(checkpoint=checkpoint, q=3, mu=1e-3)
            return attack(ScoreOracle(victim, max_batch=4), IMAGES, LABELS, budget=30, seed=7, journal=journal)
        finally:
            journal.close()

    with pytest.raises(Power):
        go(killed := Fragile(NET))
    result = go(again := Logging(NET))
    (tmp_path / "journal").unlink()
    whole = go(unbroken := Logging(NET))
    assert killed.seen + again.seen == unbroken.seen == int(whole.queries.sum()) and killed.seen > 40
    assert torch.equal(torch.cat([killed.asked, again.asked]), unbroken.asked)
    assert torch.equal(result.adversarial, whole.adversarial) and torch.equal(result.distance, whole.distance)


def test_the_nearest_asked_point_of_the_wanted_confidence_is_kept(checkpoint):
    """The victim's own log is searched: all points, or the iterates alone, which follow the check and each q probes."""
    q, budget, image, label = 4, 102, IMAGES[:1], int(LABELS[0])
    target = int(NET(image).topk(2).indices[0, 1])
    found = {}
    for accept in ("all", "iterates"):
        for kappa, targets in itertools.product((0.0, 0.4), (None, torch.tensor([target]))):
            victim = Logging(NET)
            attack = LearnedZO(checkpoint=checkpoint, q=q, mu=0.02, c=0.01, kappa=kappa, accept=accept)
            result = attack(ScoreOracle(victim), image, LABELS[:1], targets, budget=budget, seed=1)
            log_p = NET(victim.asked).log_softmax(1)
            wanted = log_p.clone() if targets is None else log_p[:, [target]]
            refused = log_p[:, [label]] if targets is None else log_p.clone()
            (wanted if targets is None else refused)[:, label if targets is None else target] = -torch.inf
            hit = refused.amax(1) - wanted.amax(1) <= -kappa
            assert victim.seen == budget == 1 + 1 + 20 * (q + 1)
            hit[0] = False
            if accept == "iterates":
                hit[[place for place in range(budget) if (place - 1) % (q + 1)]] = False
            lengths = (victim.asked - image).abs().flatten(1).sum(1)[hit]
            assert result.success.item() and result.distance.item() == pytest.approx(lengths.min().item(), abs=1e-5)
            found[accept, kappa, targets is None] = result.distance.item()
    assert found["all", 0.0, True] < found["all", 0.4, True] and found["all", 0.0, True] <= found["iterates", 0.0, True]


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 1, 1), (2, 3, 5)])
def test_images_of_any_shape(checkpoint, shape):
    net = random_linear(3, math.prod(shape))
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    victim = Logging(net)
    attack = LearnedZO(checkpoint=checkpoint, q=2, mu=1e-3, p=1.0, iterations=3)
    result = attack(ScoreOracle(victim), images, net(images).argmax(1), budget=99, seed=0)
    assert result.queries.tolist() == [1 + 3 * 3 + 1] * 2 and victim.asked.shape == (22, *shape)
    assert result.reason == ["iterations"] * 2 and victim.asked.isfinite().all()
    if shape == (1, 1, 1):  # a norm of sqrt(1) leaves |sigma| = 1: probes lie mu |z| from their iterate
        z = ImageStreams(0, [0])
        first = [z.randn(torch.tensor([0]), shape) for shape in ((1,), (), (2, 1))]
        expected = images[0, 0, 0, 0] + 1e-4 * first[0][0, 0] + 1e-3 * first[2][0, :, 0]
        own = victim.asked.flatten()[4:6]  # after both checks and both iterates
        assert torch.allclose(own, expected, atol=1e-6)


def test_the_command_tells_the_optimizer_that_it_attacked_with(checkpoint, tmp_path):
    words = ["--attack", "configs/attack/zo_lstm_paper.yaml", "--attack.checkpoint", checkpoint, "--attack.q", "2"]
    cli = run_command(AttackCLI, *words, *counted(tmp_path / "log"), "--images.count", "4", "--budget", "20")
    (parent,) = json.loads((cli.folder / "lineage.json").read_text())["parents"]
    assert parent["sha256"] == file_sha256(checkpoint)
    rows = merge_records(cli.folder)
    assert asked(tmp_path / "log") == rows["queries"].sum() and set(rows["queries"]) <= {1, 20}


def test_the_package_ships_the_networks_of_the_mnist_task():
    """The sizes of the published program, and where they come from."""
    attack = LearnedZO()
    sizes = {part: sum(p.numel() for p in getattr(attack.optimizer, part).parameters()) for part in ("update", "query")}
    assert sizes == {"update": 450, "query": 490}
    with safe_open(checkpoint_rnns.SHIPPED, "pt") as file:
        told = {name: json.loads(text) for name, text in file.metadata().items()}
    assert (told["settings"]["model"]["init_args"]["horizon"], told["parents"][1]["job"]) == (200, "train-victim")
    # An attack that never saw these images, or a victim like this one, brings the loss down.
    result = attack(ScoreOracle(NET), IMAGES, LABELS, budget=21 * 30, seed=0)
    assert bool(result.success.all()) and result.queries.tolist() == [1 + 29 * 21 + 1] * 3


def test_what_ships_is_an_exported_checkpoint(checkpoint, tmp_path, monkeypatch, capsys):
    """No file: the error says how to put one there; that command writes the networks and where they come from."""
    monkeypatch.setattr(checkpoint_rnns, "SHIPPED", tmp_path / "shipped.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"ships no shipped.safetensors: .* experiments.ship_optimizer CHECKPOINT"
    ):
        LearnedZO()
    run = tmp_path / "runs" / "train-optimizer" / "mine"
    (run / "checkpoints").mkdir(parents=True)
    best = run / "checkpoints" / "best.ckpt"
    best.write_bytes(Path(checkpoint).read_bytes())
    parent = {"path": "/somewhere/victim.ckpt", "sha256": "ab", "parents": []}
    settings = {"model": {"horizon": 200, "update": {"checkpoint": "/somewhere/update.ckpt"}}}
    write_lineage(run, "train-optimizer", settings, [parent], start={"commit": "0123", "versions": {"torch": "2"}})
    ship_optimizer.main([str(best), "--file", str(tmp_path / "shipped.safetensors")])
    assert capsys.readouterr().out.strip().endswith("shipped.safetensors")
    shipped, own = (LearnedZO(**given).optimizer for given in ({}, {"checkpoint": checkpoint}))
    assert all(torch.equal(*pair) for pair in zip(shipped.parameters(), own.parameters(), strict=True))
    for kind in (CheckpointUpdateRNN, CheckpointQueryRNN):
        weights, expected = kind().state_dict(), kind(checkpoint).state_dict()
        assert all(torch.equal(weights[name], expected[name]) for name in expected) and kind().checkpoint is None
    with safe_open(tmp_path / "shipped.safetensors", "pt") as file:
        told = {name: json.loads(text) for name, text in file.metadata().items()}
        sizes = [file.get_tensor(name).numel() for name in file.keys()]  # noqa: SIM118  it is no mapping
    assert sum(sizes) == (4 * 4 * 5 + 4) + (4 * 4 * 6 + 4)
    assert told["sha256"] == file_sha256(best) and told["commit"] == "0123"
    assert told["settings"] == {"model": {"horizon": 200, "update": {}}}
    assert told["parents"] == [{"sha256": "ab", "parents": []}]
    held = torch.load(best)
    held["state_dict"] = {name: value for name, value in held["state_dict"].items() if "query" not in name}
    torch.save(held, best)
    with pytest.raises(SystemExit):
        ship_optimizer.main([str(best), "--file", str(tmp_path / "shipped.safetensors")])
    assert "holds no QueryRNN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 1.5}, r"p, the probability of predicted variances, must be in \[0, 1\], got 1.5"),
        ({"alpha": 0.0}, "alpha, the factor of the updates, must be > 0 and finite, got 0.0"),
        ({"mu": 0.0}, "mu must be > 0, got 0.0"),
        ({"c": -1.0}, "c must be 0 or more, and finite, got -1.0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"form": "box"}, "form must be clamp or tanh, got 'box'"),
        ({"norm": "l0"}, "norm must be linf, l2 or l1, got 'l0'"),
    ],
)
def test_bad_arguments_are_named(checkpoint, options, message):
    with pytest.raises(ValueError, match=message):
        LearnedZO(checkpoint=checkpoint, **options)
