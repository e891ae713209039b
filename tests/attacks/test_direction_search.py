"""What Sign-OPT, SVM-OPT, OPT and ZO-SignSGD share: counts, budgets, starts, odd images, hyperparameters."""

from pathlib import Path

import pytest
import torch
import yaml

import zeroth.attacks
from tests.victims import Linear, Logging, random_linear
from zeroth.attacks import OPT, SVMOPT, SignOPT, ZOSignSGD
from zeroth.attacks.label.direction_search import State
from zeroth.attacks.label.directions import orthogonal
from zeroth.attacks.label.starts import Pool
from zeroth.oracles import LabelOracle

CONFIGS = Path(__file__).parents[2] / "configs" / "attack"
STEMS = ("sign_opt", "svm_opt", "opt", "zo_sign_sgd")
NET = random_linear(5, 16)
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
LABELS = NET(IMAGES).argmax(1)


def shipped(stem: str, **options):
    config = yaml.safe_load((CONFIGS / f"{stem}.yaml").read_text())
    return getattr(zeroth.attacks, config["class_path"])(**config["init_args"] | options)


ATTACKS = {
    **{stem: shipped(stem) for stem in (*STEMS, "sign_opt_paper", "sign_opt_linf")},
    "zo_sign_sgd_searched": ZOSignSGD(norm="linf", q=5, single_query=False),
}
each = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def test_the_class_defaults_are_those_of_the_config():
    for stem in STEMS:
        assert repr(shipped(stem)) == repr(type(shipped(stem))())


@each
@pytest.mark.parametrize("budget", [1, 2, 99, 100, 101, 1000])
def test_the_ledger_agrees_with_the_victims_own_count(budget, attack):
    victim = Logging(NET)
    result = attack(LabelOracle(victim), IMAGES[:2], LABELS[:2], budget=budget, seed=0)
    assert victim.seen == int(result.queries.sum()) and int(result.queries.max()) <= budget
    assert bool((result.queries == budget).all()) or set(result.reason) <= {"budget", "converged", "no start"}
    won = result.success
    assert bool((NET(result.adversarial).argmax(1) != LABELS[:2])[won].all())
    assert torch.allclose(result.norms()[attack.norm][won], result.distance[won])
    assert bool(result.distance[~won].isinf().all())
    if budget == 1000:
        assert bool(won.all())
        nearest = result.best_distance_at([100, 300, 1000])
        assert bool((nearest[2] <= nearest[0]).all()) and bool((nearest[2] < nearest[0]).any())


@each
def test_draws_belong_to_the_image(attack):
    together = attack(LabelOracle(NET), IMAGES, LABELS, budget=260, seed=0)
    alone = attack(LabelOracle(NET), IMAGES[4:], LABELS[4:], budget=260, seed=0, indices=[4, 5])
    assert torch.equal(together.queries[4:], alone.queries)
    assert torch.allclose(together.distance[4:], alone.distance, rtol=1e-3)


@pytest.mark.parametrize("attack", [SignOPT(), SignOPT(norm="linf", directions="orthogonal"), SVMOPT(), OPT()])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 1), (3, 4, 4), (1, 2, 5)])
def test_odd_images_end(shape, attack):
    dimension = shape[0] * shape[1] * shape[2]
    net = random_linear(3, dimension, seed=4)
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    result = attack(LabelOracle(net), images, net(images).argmax(1), budget=250, seed=0)
    assert int(result.queries.max()) <= 250
    assert bool((net(result.adversarial).argmax(1) != net(images).argmax(1))[result.success].all())
    assert not bool(result.adversarial.isnan().any())


@pytest.mark.parametrize("name", [SignOPT, SVMOPT, OPT, ZOSignSGD])
def test_a_constant_victim_is_reported_and_wrong_images_never_enter(name):
    def partly(images):  # dark corners have one class, whatever is added elsewhere
        answers = NET(images).argmax(1)
        return torch.where(images[:, 0, 0, 0] == 0, 9, answers)

    attack = name(tries=20)
    images, labels = torch.cat([IMAGES[:2], IMAGES[:1]]), torch.cat([LABELS[:2], (LABELS[:1] + 1) % 5])
    together = attack(LabelOracle(partly), images, labels, budget=300, seed=0)
    assert together.reason[2] == "misclassified" and int(together.queries[2]) == 1
    alone = attack(LabelOracle(partly), images[:2], labels[:2], budget=300, seed=0)
    assert torch.equal(together.queries[:2], alone.queries)
    assert torch.allclose(together.distance[:2], alone.distance, rtol=1e-3)
    constant = attack(LabelOracle(lambda x: torch.zeros(len(x)).long()), images, labels * 0, budget=400, seed=0)
    assert constant.reason == ["no start"] * 3 and constant.queries.tolist() == [21] * 3
    assert not constant.success.any() and bool(constant.distance.isinf().all())


def test_an_image_without_a_start_does_not_stop_the_others():
    """The pool has no image of the second one's target."""
    attack = SignOPT(tries=5)
    attack.pool = Pool(LABELS[:3], IMAGES[:3].__getitem__)
    targets = torch.stack([LABELS[1], LABELS[4]])
    result = attack(LabelOracle(NET), IMAGES[:2], LABELS[:2], targets, budget=200, seed=0)
    assert result.reason == ["budget", "no start"] and result.queries.tolist() == [200, 1]
    assert result.success.tolist() == [True, False]


def test_a_pool_makes_targeted_attacks_begin_at_its_images():
    weight = torch.eye(3, 16)
    net = Linear(weight)
    images = torch.full((2, 1, 4, 4), 0.2)
    images[:, 0, 0, 0] = 0.8  # class 0
    pool = Pool(torch.arange(3), torch.eye(3, 16).reshape(3, 1, 4, 4).__getitem__)
    attack = SignOPT(tries=5)
    attack.pool = pool
    victim = Logging(net)
    result = attack(LabelOracle(victim), images, torch.tensor([0, 0]), torch.tensor([1, 2]), budget=600, seed=0)
    assert torch.equal(victim.asked[2:4], pool.read(torch.tensor([1, 2])))  # after the two clean images
    assert bool(result.success.all()) and net(result.adversarial).argmax(1).tolist() == [1, 2]
    # The nearest image of a class: both pixels meet in the middle, .3 each.
    assert torch.allclose(result.distance, torch.tensor(0.3 * 2**0.5), rtol=0.05)


def test_steps_and_probes_of_a_cube():
    theta = torch.tensor([1.0, -1.0, 0.5, 0.0]).reshape(1, 1, 2, 2)
    step = torch.tensor([0.5, 0.5, 1.0, -0.25]).reshape(1, 1, 2, 2)
    ours, paper = SignOPT(norm="linf"), SignOPT(norm="linf", clip=False)
    assert ours.moved(theta, step).flatten().tolist() == [1.0, -0.5, 1.0, -0.25]
    assert paper.moved(theta, step).flatten().tolist() == pytest.approx([1.0, -1 / 3, 1.0, -1 / 6])
    assert ours.probe(theta, step).flatten().tolist() == [1.5, -0.5, 1.5, -0.25]
    assert torch.equal(paper.probe(theta, step), paper.moved(theta, step))
    assert float(SignOPT().probe(theta, step).norm()) == pytest.approx(1.0)
    shorter = ours.moved(theta, -0.5 * theta)  # inside the cube: brought back to its surface
    assert torch.allclose(shorter, theta)


@pytest.mark.parametrize(("cells", "rank"), [(None, 16), (2, 4)])
def test_orthogonal_directions(cells, rank):
    torch.manual_seed(0)
    coarse = torch.randn(2, 20, 1, 2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    noise = torch.randn(2, 20, 1, 4, 4) if cells is None else coarse
    u = orthogonal(noise, cells)
    first = u[:, :rank].flatten(2)
    assert torch.allclose(first @ first.mT, torch.eye(rank).expand(2, -1, -1), atol=1e-5)
    assert torch.equal(u[:, rank:], noise[:, rank:])
    if cells:  # they stay constant on the cells
        assert torch.allclose(u[..., ::2, ::2], u[..., 1::2, 1::2], atol=1e-5)


def test_an_estimate_leaves_half_of_what_is_left_to_its_line_search():
    counts = []

    class Watched(SignOPT):
        def estimate(self, trial, rows, state: State):
            before = trial.ledger.queries.clone()
            out = super().estimate(trial, rows, state)
            counts.append((trial.budget[rows] - before[rows], (trial.ledger.queries - before)[rows]))
            return out

    Watched()(LabelOracle(NET), IMAGES, LABELS, budget=310, seed=0)
    left, asked = (torch.cat(column) for column in zip(*counts, strict=True))
    assert torch.equal(asked, ((left + 1) // 2).clamp_max(100)) and bool((asked < 100).any())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1"}, "norm must be 'l2' or 'linf', got 'l1'"),
        ({"q": 0}, "q must be at least 1, got 0"),
        ({"tries": 0}, "tries must be at least 1, got 0"),
        ({"start_cells": []}, r"start_cells must be sides of grids >= 1, or null for white noise, got \[\]"),
        ({"start_cells": [0]}, r"start_cells must be sides of grids >= 1, or null for white noise, got \[0\]"),
        ({"directions": "cube"}, "directions must be 'sphere', 'gaussian' or 'orthogonal', got 'cube'"),
        ({"coarse_cells": 0}, "coarse_cells must be at least 1, got 0"),
        ({"coarse_steps": -1}, "coarse_steps must be >= 0, got -1"),
        ({"alpha": 0}, "alpha must be > 0, got 0"),
        ({"beta": 1e-4, "smallest_beta": 1}, r"smallest_beta must lie in \(0, beta = 0.0001\], got 1"),
        ({"resolution": 0.5}, "resolution must be at least 1, got 0.5"),
        ({"momentum": 1}, r"momentum must lie in \[0, 1\), got 1"),
        ({"growth": 0.9}, "growth must be at least 1, got 0.9"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    for name in (SignOPT, SVMOPT, OPT, ZOSignSGD):
        with pytest.raises(ValueError, match=message):
            name(**options)
