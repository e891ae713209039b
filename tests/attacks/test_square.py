"""Square Attack against a slow reference, and against what its victim was really asked."""

import math

import pytest
import torch

from tests.attacks.promises import an_image_stands_alone, successes_hold
from tests.victims import Logging, random_linear
from zeroth.attacks import Square
from zeroth.attacks.score.square import bump, share
from zeroth.oracles import ImageStreams, ScoreOracle

NET = random_linear(5, 36)
IMAGES = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
LABELS = NET(IMAGES).argmax(1)
ATTACKS = {"linf": Square(epsilon=0.2), "l2": Square(norm="l2", epsilon=0.8)}
both = pytest.mark.parametrize("norm", ATTACKS)


def hopeless(images):
    return torch.tensor([[9.0, 0, 0]]).expand(len(images), 3)


def margins(net, asked: torch.Tensor, label: int) -> torch.Tensor:
    log_p = net(asked).log_softmax(1)
    return log_p[:, label] - torch.cat([log_p[:, :label], log_p[:, label + 1 :]], 1).amax(1)


def test_p_halves_at_the_papers_iterations():
    steps = {0: 1, 10: 1, 11: 2, 50: 2, 51: 4, 200: 4, 201: 8, 500: 8, 501: 16, 1000: 16, 1001: 32, 2001: 64}
    steps |= {4001: 128, 6001: 256, 8000: 256, 8001: 512, 10_000: 512, 10**6: 512}
    assert {at: 0.8 / share(0.8, at) for at in steps} == pytest.approx(steps)
    assert [share(0.8, at, 1000) for at in (1, 2, 5, 6)] == [0.8, 0.4, 0.4, 0.2]


def test_sides_of_squares():
    sides = [Square(p=0.8).side(at, 28, 28) for at in (0, 11, 51, 201, 501, 10_000)]
    assert sides == [round((0.8 * 784 / 2**k) ** 0.5) for k in range(5)] + [1]
    l2 = Square(norm="l2", epsilon=2.0, p=0.8)
    assert [l2.side(at, 28, 28) for at in (0, 11, 51, 10_000)] == [25, 19, 13, 3]
    assert Square(p=1.0).side(0, 9, 5) == 5 and l2.side(0, 1, 7) == 1 and l2.side(0, 2, 2) == 2


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 13])
def test_a_bump_is_equation_2(side):
    """n + 1 - k falls from n + 1 at the rim of the sum to the distance from the centre."""
    expected = torch.zeros(side, side, dtype=torch.float64)
    for top, height, sign in ((0, side // 2, 1), (side // 2, side - side // 2, -1)):
        n = max(height // 2, side // 2)
        for r in range(height):
            for c in range(side):
                away = max(abs(r - height // 2), abs(c - side // 2))
                expected[top + r, c] = sign * sum(1 / (n + 1 - k) ** 2 for k in range(n - away + 1))
    expected /= expected.norm()
    assert torch.allclose(bump(side).double(), expected, atol=1e-6)


def reference(norm: str, epsilon: float, p: float, image: torch.Tensor, label: int, steps: int) -> list[torch.Tensor]:
    """Ask as algorithms 1-3 do, pixel by pixel, from the same uniform numbers; returns the points."""
    draws = ImageStreams(0, [0])
    channels, height, width = image.shape
    zero = torch.zeros(1, dtype=torch.int64)

    def sign(number: float) -> float:
        return -1.0 if number < 0.5 else 1.0

    def bounded(delta: torch.Tensor) -> torch.Tensor:
        return (image + delta * epsilon / delta.norm()).clamp(0, 1) - image

    def pattern(side: int, number: float) -> torch.Tensor:
        return bump(side) if number < 0.5 else bump(side).T

    delta = torch.zeros_like(image)
    if norm == "linf":
        uniform = draws.rand(zero, (channels, 1, width))[0]
        for i in range(channels):
            for c in range(width):
                delta[i, :, c] = epsilon * sign(uniform[i, 0, c])
    else:
        side = min(height, width) // 5
        down, across = height // side, width // side
        uniform = draws.rand(zero, (channels + 1, down, across, 1, 1))[0, :, :, :, 0, 0]
        top, left = (height - down * side) // 2, (width - across * side) // 2
        for i in range(channels):
            for r in range(down):
                for c in range(across):
                    cell = (slice(top + r * side, top + (r + 1) * side), slice(left + c * side, left + (c + 1) * side))
                    delta[i][cell] = sign(uniform[i, r, c]) * pattern(side, uniform[-1, r, c])
        delta = bounded(delta)
    asked = [(image + delta).clamp(0, 1)]
    best = float(margins(NET_3, asked[0][None], label))
    attack = Square(norm=norm, epsilon=epsilon, p=p)
    for step in range(steps):
        side = attack.side(step, height, width)
        uniform = draws.rand(zero, (5 + channels,))[0]
        places = [int(u * (size - side + 1)) for u, size in zip(uniform, (height, width) * 2, strict=False)]
        one, two = ((slice(a, a + side), slice(b, b + side)) for a, b in (places[:2], places[2:]))
        new = delta.clone()
        if norm == "linf":
            for i in range(channels):
                new[i][one] = epsilon * sign(uniform[5 + i])
            if torch.equal(new, delta):
                for i in range(channels):
                    new[i][one] *= -1
        else:
            unused = max(epsilon**2 - float(delta.norm()) ** 2, 0.0) / channels
            for i in range(channels):
                in_one, in_two = torch.zeros(height, width, dtype=bool), torch.zeros(height, width, dtype=bool)
                in_one[one], in_two[two] = True, True
                available = math.sqrt(float((delta[i][in_one | in_two] ** 2).sum()) + unused)
                nu = sign(uniform[5 + i]) * pattern(side, uniform[4]) + delta[i][one] / max(
                    float(delta[i][one].norm()), 1e-10
                )
                new[i][two] = 0
                new[i][one] = nu / nu.norm() * available
            new = bounded(new)
        asked.append((image + new).clamp(0, 1))
        if (value := float(margins(NET_3, asked[-1][None], label))) < best:
            best, delta = value, new
    return asked


NET_3 = random_linear(4, 3 * 11 * 12)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.15), ("l2", 1.5)])
def test_it_asks_what_a_slow_reference_asks(norm, epsilon):
    image = torch.rand(3, 11, 12, generator=torch.Generator().manual_seed(3))
    label, steps = int(NET_3(image[None]).argmax()), 70
    victim = Logging(NET_3)
    attack = Square(norm=norm, epsilon=epsilon, p=0.5, kappa=1e3)
    attack(ScoreOracle(victim), image[None], torch.tensor([label]), budget=2 + steps, seed=0)
    expected = torch.stack([image, *reference(norm, epsilon, 0.5, image, label, steps)])
    assert torch.allclose(victim.asked, expected, atol=1e-5)


def test_squares_of_the_linf_attack_always_change_something():
    victim = Logging(NET)
    Square(epsilon=0.2, p=0.2, kappa=1e3)(ScoreOracle(victim), IMAGES[:1], LABELS[:1], budget=300, seed=0)
    asked = victim.asked[1:] - IMAGES[0]
    assert torch.allclose(asked.abs(), torch.tensor(0.2), atol=1e-6)  # always a corner of the ball
    assert (asked[0].sign() == asked[0, :, :1].sign()).all()  # stripes first
    values, best = margins(NET, victim.asked[1:], int(LABELS[0])), 0
    for number in range(1, len(asked)):
        changed = (asked[number] - asked[best]).abs() > 0.1
        assert changed.any()
        best = number if values[number] < values[best] else best


@pytest.mark.parametrize(("norm", "epsilon", "least"), [("linf", 0.2, 0.999), ("l2", 0.8, 0.7)])
def test_on_a_linear_victim_it_nears_the_closed_form_optimum(norm, epsilon, least):
    """The margin falls by epsilon times the dual norm of its gradient: l_1 for l_inf, l_2 for l_2.

    The l_2 attack places one pattern, and a gradient of white noise is no sum of few of them: it comes near only.
    """
    net = random_linear(2, 36)
    label = int(net(IMAGES[:1]).argmax())
    victim = Logging(net)
    attack = Square(norm=norm, epsilon=epsilon, p=0.3, schedule=1000, kappa=1e3)
    attack(ScoreOracle(victim), IMAGES[:1], torch.tensor([label]), budget=3000, seed=0)
    gradient = (net.weight[label] - net.weight[1 - label]).float()
    fallen = -((victim.asked - IMAGES[:1]).flatten(1) @ gradient).min()
    best = epsilon * gradient.norm(p=1 if norm == "linf" else 2)
    assert least * best < fallen <= (1 + 1e-5) * best


@both
@pytest.mark.parametrize("budget", [1, 2, 99, 100, 101])
def test_queries_are_counted_exactly_and_success_ends_them(norm, budget):
    victim = Logging(NET)
    result = ATTACKS[norm](ScoreOracle(victim), IMAGES, LABELS, budget=budget, seed=0)
    assert victim.seen == int(result.queries.sum())
    won = result.success
    assert torch.equal(result.queries[won], result.queries_to_success[won])
    assert (result.queries[~won] == budget).all()
    spent = ATTACKS[norm](ScoreOracle(hopeless), IMAGES, torch.zeros(4, dtype=torch.int64), budget=budget, seed=0)
    assert (spent.queries == budget).all() and spent.reason == ["budget"] * 4


@both
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 9, 5), (1, 1, 1), (3, 1, 1), (2, 2, 3)])
def test_every_point_stays_in_ball_and_box(norm, shape):
    net = random_linear(4, math.prod(shape))
    images = torch.rand(6, *shape, generator=torch.Generator().manual_seed(2))
    labels = net(images).argmax(1)
    victim = Logging(net)
    attack = ATTACKS[norm]
    attack(ScoreOracle(victim), images[:1], labels[:1], budget=100, seed=0)
    points = victim.asked
    order = math.inf if norm == "linf" else 2
    assert torch.linalg.vector_norm((points - images[0]).flatten(1), order, 1).max() <= attack.epsilon + 1e-6
    assert points.min() >= 0 and points.max() <= 1
    successes_hold(attack, net, images, labels, budget=100)


@both
def test_an_image_stands_alone(norm):
    an_image_stands_alone(ATTACKS[norm], NET, IMAGES, LABELS, budget=150)


@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_targeted_finds_the_target(loss):
    targets = (LABELS + 1) % 5
    result = Square(epsilon=0.4, loss=loss)(ScoreOracle(NET), IMAGES, LABELS, targets, budget=2000, seed=0)
    assert result.success.all() and torch.equal(result.predicted, targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l1"}, "norm must be 'linf' or 'l2', got 'l1'"),
        ({"epsilon": 0.0}, r"epsilon must be > 0 in \[0, 1\] pixels, got 0.0"),
        ({"p": 1.5}, r"p must lie in \(0, 1\], a share of the pixels, got 1.5"),
        ({"schedule": 0}, "schedule must be at least 1 iteration, got 0"),
        ({"loss": "hinge"}, "loss must be 'cross_entropy' or 'margin', got 'hinge'"),
        ({"kappa": -1}, "kappa must be >= 0, got -1"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Square(**options)
