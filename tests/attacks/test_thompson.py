"""Thompson against a slow reference, and its model against closed forms."""

import math

import pytest
import torch

from tests.attacks.promises import an_image_stands_alone, successes_hold
from tests.victims import Linear, Logging, random_linear
from zeroth.attacks import Square, Thompson
from zeroth.attacks.score.square import share, square_side
from zeroth.attacks.score.thompson import kernel_root, posterior_sample
from zeroth.oracles import ImageStreams, ScoreOracle

NET = random_linear(5, 36)
IMAGES = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
LABELS = NET(IMAGES).argmax(1)
ATTACK = Thompson(epsilon=0.2)
SMALL = torch.Generator().manual_seed(4)
Z = torch.randn(3, 5, generator=SMALL)
Y = torch.randn(3, generator=SMALL)
GRAM = Z @ Z.T


def margins(net, asked: torch.Tensor, label: int) -> torch.Tensor:
    log_p = net(asked).log_softmax(1)
    return log_p[:, label] - torch.cat([log_p[:, :label], log_p[:, label + 1 :]], 1).amax(1)


@pytest.mark.parametrize(("size", "length"), [(1, 0.1), (9, 0.01), (9, 2.0), (28, 5.0)])
def test_the_root_of_the_kernel(size, length):
    root = kernel_root(size, length)
    places = torch.arange(size)
    expected = (-((places[:, None] - places) ** 2) / (2 * length**2)).exp()
    assert torch.allclose(root @ root, expected, atol=1e-5) and torch.allclose(root, root.T, atol=1e-6)


def closed_form(noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of w / s, by the information form."""
    z, y = Z.double(), Y.double()
    lam = noise * (z**2).sum(1).mean()
    covariance = torch.linalg.inv(torch.eye(5, dtype=torch.float64) + z.T @ z / lam)
    marginal = z @ z.T + lam * torch.eye(3, dtype=torch.float64)
    scale = (y @ torch.linalg.inv(marginal) @ y / 3).sqrt()
    return covariance @ z.T @ y / lam / scale, covariance


@pytest.mark.parametrize("noise", [0.01, 0.5])
def test_samples_have_the_mean_and_covariance_of_the_posterior(noise):
    mean, covariance = closed_form(noise)
    count = 100_000
    draws = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    samples = posterior_sample(
        Z.expand(count, -1, -1), GRAM.expand(count, -1, -1), Y.expand(count, -1), noise, draws[:, :5], draws[:, 5:]
    ).double()
    assert torch.allclose(samples.mean(0), mean, atol=5 / count**0.5)
    assert torch.allclose(samples.T.cov(), covariance, atol=8 / count**0.5)
    zero = torch.zeros(1, 8)
    assert torch.allclose(
        posterior_sample(Z[None], GRAM[None], Y[None], noise, zero[:, :5], zero[:, 5:])[0].double(), mean, atol=1e-5
    )


def test_the_unit_of_the_loss_does_not_matter_and_no_change_leaves_the_prior():
    draws = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    one, ten = (
        posterior_sample(Z[None], GRAM[None], k * Y[None], 0.1, draws[:, :5], draws[:, 5:]) for k in (1.0, 1000.0)
    )
    assert torch.allclose(one, ten, rtol=1e-4)
    nothing = torch.zeros(1, 3, 5), torch.zeros(1, 3, 3), torch.zeros(1, 3)
    blind = posterior_sample(*nothing, 0.1, draws[:, :5], draws[:, 5:])
    assert torch.equal(blind, draws[:, :5])


def reference(net, options: dict, image: torch.Tensor, label: int, steps: int) -> list[torch.Tensor]:
    """Ask as the docstring says, one image and one cell at a time in float64; returns the points."""
    epsilon, cells, memory, noise = options["epsilon"], options["cells"], options["memory"], options["noise"]
    draws, zero = ImageStreams(0, [0]), torch.zeros(1, dtype=torch.int64)
    channels, height, width = image.shape
    clean = image.double()

    def point(signs: torch.Tensor) -> torch.Tensor:
        return (clean + epsilon * signs).clamp(0, 1)

    def near(size: int) -> torch.Tensor:
        at = torch.arange(size, dtype=torch.float64)
        return (-((at[:, None] - at) ** 2) / (2 * (options["length"] * size) ** 2)).exp()

    # Prior covariance of the gradient on the grid, (C h w)^2.
    root = torch.kron(kernel_root(cells, options["length"] * cells), kernel_root(cells, options["length"] * cells))
    root = torch.block_diag(*[root.double()] * channels)
    assert torch.allclose(root @ root, torch.block_diag(*[torch.kron(near(cells), near(cells))] * channels), atol=1e-4)

    def pooled(change: torch.Tensor) -> torch.Tensor:
        tall, wide = height // cells, width // cells
        blocks = change.reshape(channels, cells, tall, cells, wide)
        return blocks.mean((2, 4)).flatten()

    stripe = draws.rand(zero, (channels, 1, width))[0]
    signs = torch.where(stripe < 0.5, -1.0, 1.0).double().expand(-1, height, -1).clone()
    asked = [point(signs)]
    best, seen = float(margins(net, asked[0][None], label)), []
    size = channels * cells * cells
    for step in range(steps):
        recent = seen[-memory:]
        # The oldest of a full memory stands where the next one goes.
        first = step % memory if step > memory else 0
        recent = recent[len(recent) - first :] + recent[: len(recent) - first]
        normal = draws.randn(zero, (size + len(recent),))[0].double()
        w = normal[:size]
        if recent:
            z, y = torch.stack([a for a, _ in recent]), torch.tensor([b for _, b in recent], dtype=torch.float64)
            lam = noise * (z**2).sum(1).mean()
            inverse = torch.linalg.inv(z @ z.T + lam * torch.eye(len(y), dtype=torch.float64))
            s = (y @ inverse @ y / len(y)).sqrt()
            w = w + z.T @ inverse @ (y / s - z @ w - lam.sqrt() * normal[size:])
        g = (root @ w).reshape(channels, cells, cells)
        side = square_side(share(options["p"], step), height, width)
        top, left = (int(u * (n - side + 1)) for u, n in zip(draws.rand(zero, (2,))[0], (height, width), strict=True))
        new = signs.clone()
        for r in range(top, top + side):
            for c in range(left, left + side):
                new[:, r, c] = -g[:, r * cells // height, c * cells // width].sign()
        if torch.equal(new, signs):
            new[:, top : top + side, left : left + side] *= -1
        asked.append(point(new))
        value = float(margins(net, asked[-1][None], label))
        seen.append((root @ pooled((asked[-1] - point(signs)) / epsilon), value - best))
        if value < best:
            best, signs = value, new
    return asked


@pytest.mark.parametrize(("shape", "cells"), [((1, 6, 6), 6), ((3, 8, 12), 4)])
def test_it_asks_what_a_slow_reference_asks(shape, cells):
    net, steps = random_linear(4, math.prod(shape)), 25
    image = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    label, victim = int(net(image[None]).argmax()), Logging(net)
    options = {"epsilon": 0.15, "p": 0.5, "memory": 7, "cells": cells, "length": 0.2, "noise": 0.1}
    Thompson(**options, kappa=1e3)(ScoreOracle(victim), image[None], torch.tensor([label]), budget=2 + steps, seed=0)
    expected = torch.stack([image.double(), *reference(net, options, image, label, steps)])
    assert torch.allclose(victim.asked.double(), expected, atol=1e-5)


def test_it_learns_a_smooth_linear_victim_faster_than_square_attack():
    """Weights flat on 4 x 4 cells: share of the best possible fall of the margin, after 60 queries of 20 images."""
    coarse = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    smooth = coarse.repeat_interleave(4, 0).repeat_interleave(4, 1).flatten()
    net = Linear(torch.stack([smooth, -smooth]), torch.zeros(2))
    images = torch.rand(20, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    labels, fallen = net(images).argmax(1), {}
    for attack in (Thompson(epsilon=0.2, length=0.15, kappa=1e3), Square(epsilon=0.2, kappa=1e3)):
        victim = Logging(net)
        attack(ScoreOracle(victim), images, labels, budget=60, seed=0)
        asked = victim.asked.reshape(60, 20, -1).double()
        moved = torch.where(labels == 0, -1.0, 1.0) * ((asked - asked[0]) @ smooth)
        fallen[type(attack)] = float((moved.amax(0) / (0.2 * smooth.abs().sum())).mean())
    assert fallen[Thompson] > 0.78 > fallen[Square] + 0.1


def test_points_are_corners_and_always_change_something():
    victim = Logging(NET)
    Thompson(epsilon=0.2, p=0.2, kappa=1e3)(ScoreOracle(victim), IMAGES[:1], LABELS[:1], budget=300, seed=0)
    asked = victim.asked[1:] - IMAGES[0]
    assert torch.allclose(asked.abs(), torch.tensor(0.2), atol=1e-6)
    assert (asked[0].sign() == asked[0, :, :1].sign()).all()  # stripes first
    values, best = margins(NET, victim.asked[1:], int(LABELS[0])), 0
    for number in range(1, len(asked)):
        assert ((asked[number] - asked[best]).abs() > 0.1).any()
        best = number if values[number] < values[best] else best


@pytest.mark.parametrize("budget", [1, 2, 50])
def test_queries_are_counted_exactly_and_success_ends_them(budget):
    victim = Logging(NET)
    result = ATTACK(ScoreOracle(victim), IMAGES, LABELS, budget=budget, seed=0)
    assert victim.seen == int(result.queries.sum())
    won = result.success
    assert torch.equal(result.queries[won], result.queries_to_success[won]) and (result.queries[~won] == budget).all()


def test_a_constant_victim_spends_the_budget_and_gives_no_nan():
    victim = Logging(lambda x: torch.tensor([[9.0, 0, 0]]).expand(len(x), 3))
    spent = ATTACK(ScoreOracle(victim), IMAGES, torch.zeros(4, dtype=torch.int64), budget=50, seed=0)
    assert (spent.queries == 50).all() and spent.reason == ["budget"] * 4
    assert not victim.asked.isnan().any()


@pytest.mark.parametrize("shape", [(3, 9, 5), (1, 1, 1), (3, 1, 1), (2, 2, 3)])
@pytest.mark.parametrize("cells", [None, 2, 5])
def test_every_point_stays_in_ball_and_box(shape, cells):
    net = random_linear(4, math.prod(shape))
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(2))
    victim = Logging(net)
    attack = Thompson(epsilon=0.3, cells=cells, memory=3, kappa=1e3)
    attack(ScoreOracle(victim), image, net(image).argmax(1), budget=30, seed=0)
    assert (victim.asked - image).abs().max() <= 0.3 + 1e-6 and len(victim.asked) == 30
    assert victim.asked.min() >= 0 and victim.asked.max() <= 1


def test_an_image_stands_alone():
    an_image_stands_alone(ATTACK, NET, IMAGES, LABELS, budget=60)


def test_successes_hold():
    successes_hold(ATTACK, NET, IMAGES, LABELS, budget=60)


@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_targeted_finds_the_target(loss):
    targets = (LABELS + 1) % 5
    result = Thompson(epsilon=0.4, loss=loss)(ScoreOracle(NET), IMAGES, LABELS, targets, budget=500, seed=0)
    assert result.success.all() and torch.equal(result.predicted, targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, r"epsilon must be > 0 in \[0, 1\] pixels, got 0.0"),
        ({"p": 1.5}, r"p must lie in \(0, 1\], a share of the pixels, got 1.5"),
        ({"schedule": 0}, "schedule must be at least 1, got 0"),
        ({"memory": 0}, "memory must be at least 1, got 0"),
        ({"cells": 0}, "cells must be at least 1, got 0"),
        ({"length": 0}, "length must be > 0, got 0"),
        ({"noise": -1}, "noise must be > 0, got -1"),
        ({"loss": "hinge"}, "loss must be 'cross_entropy' or 'margin', got 'hinge'"),
        ({"kappa": -1}, "kappa must be >= 0, got -1"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Thompson(**options)
