"""FGM, I-FGM and the grid that both search."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.victims import Logging, random_linear
from zeroth.attacks import FGM
from zeroth.attacks.whitebox.epsilon_grid import EpsilonGrid
from zeroth.attacks.whitebox.steepest import clip, steepest
from zeroth.oracles import GradientOracle, distance

NET = random_linear(5, 16)
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
LABELS = NET(IMAGES).argmax(1)


def loss_gradient(images, labels, targets, loss):
    """Gradient of what eqs. 7 and 8 go down, by autograd on the victim itself."""
    x = images.double().requires_grad_()
    log_p, at = NET(x).log_softmax(1), torch.arange(len(x))
    key = labels if targets is None else targets
    if loss == "cross_entropy":
        value = log_p[at, key] * (1 if targets is None else -1)
    else:
        other = log_p.clone()
        other[at, key] = -torch.inf
        value = (log_p[at, key] - other.amax(1)) * (1 if targets is None else -1)
    return torch.autograd.grad(value.sum(), x)[0]


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("norm", "largest", "order"), [("linf", 0.4, 0), ("l2", 1.5, 2), ("l1", 6.0, 1)])
def test_what_is_asked_is_equations_7_and_8_on_the_grid(norm, largest, order, targeted, loss):
    targets = (LABELS + 1) % 5 if targeted else None
    for row in range(3):
        victim, part = Logging(NET), slice(row, row + 1)
        goal = None if targets is None else targets[part]
        FGM(norm=norm, largest=largest, points=40, stride=1, loss=loss)(
            GradientOracle(victim), IMAGES[part], LABELS[part], goal, budget=42, seed=0
        )
        g = loss_gradient(IMAGES[part], LABELS[part], goal, loss)[0].flatten()
        direction = g.sign() if order == 0 else g / g.abs().pow(order).sum() ** (1 / order)
        asked = victim.asked[1 + (loss == "cross_entropy") :].flatten(1).double()
        epsilons = largest / 40 * torch.arange(1, len(asked) + 1).double()
        expected = (IMAGES[row].flatten().double() - epsilons[:, None] * direction).clamp(0, 1)
        assert torch.allclose(asked, expected, atol=1e-5) and len(asked) >= 16


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_smallest_epsilon_that_works_is_found_with_and_without_strides(norm):
    full = FGM(norm=norm, stride=1)(GradientOracle(NET), IMAGES, LABELS, budget=1001, seed=0)
    fast = FGM(norm=norm, stride=32)(GradientOracle(NET), IMAGES, LABELS, budget=1001, seed=0)
    assert full.success.all() and full.reason == ["success"] * 6
    assert torch.equal(full.adversarial, fast.adversarial)
    assert (fast.queries <= 1 + 32 + 31).all()
    # Slow and obvious: one epsilon after another.
    g = steepest(loss_gradient(IMAGES, LABELS, None, "margin").float(), norm)
    for row in range(6):
        for k in range(1, 1001):
            point = (IMAGES[row] - k * ({"linf": 1.0, "l2": 10.0, "l1": 1000.0}[norm] / 1000) * g[row]).clamp(0, 1)
            if int(NET(point.unsqueeze(0)).argmax(1)) != int(LABELS[row]):
                break
        assert torch.allclose(full.adversarial[row], point, atol=1e-5)
        assert int(full.queries_to_success[row]) == 1 + k


def test_a_grid_too_small_is_searched_to_its_end():
    result = FGM(largest=1e-4, points=50, stride=1)(GradientOracle(NET), IMAGES, LABELS, budget=999, seed=0)
    assert result.reason == ["grid"] * 6 and (result.queries == 51).all()


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.lists(st.booleans(), min_size=60, max_size=60))
def test_the_grid_against_a_plain_loop(points, stride, width, works):
    stride = min(stride, points)
    tried = [min(k, points) for k in range(stride, points + stride, stride)]
    wanted = next((k for k in tried if works[k - 1]), None)
    if wanted is not None:
        wanted = next(k for k in range(wanted - (wanted - 1) % stride, points + 1) if works[k - 1])
    grid, rows, best = EpsilonGrid(2, points=points, stride=stride, device=torch.device("cpu")), torch.arange(2), None
    for asked in range(200):  # noqa: B007
        numbers, count = grid.propose(rows, width)
        assert (count >= 1).all() and (numbers >= 1).all() and (numbers <= points).all()
        assert torch.equal(numbers[0], numbers[1])
        there = numbers[0, : count[0]].tolist()
        hits = [k for k in there if works[k - 1]]
        best = min([*hits[:1], *([] if best is None else [best])], default=None)
        if grid.enter(rows, torch.tensor([[works[k - 1] for k in line] for line in numbers.tolist()]), count).all():
            break
    assert asked < 130 and best == wanted
    assert grid.found.tolist() == [wanted is not None] * 2


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_steps_and_clips_have_the_length_they_say(norm):
    g = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    g[0] = 0
    steps = steepest(g, norm)
    assert torch.allclose(distance(steps, norm), torch.tensor([0.0, 1, 1, 1, 1]))
    radius = torch.tensor([0.1, 0.2, 10.0, 100.0, 1000.0]).reshape(-1, 1, 1, 1)
    clipped = clip(g, norm, radius)
    assert torch.allclose(distance(clipped, norm), distance(g, norm).minimum(radius.flatten()))
    assert torch.equal(clip(clipped[4:], norm, 1e4), g[4:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "l0"}, "norm must be 'linf', 'l2' or 'l1', got 'l0'"),
        ({"largest": 0.0}, "largest must be > 0"),
        ({"points": 0}, "points must be at least 1, got 0"),
        ({"points": 10, "stride": 11}, r"stride must lie in 1..points = 10, got 11"),
        ({"loss": "hinge"}, "loss must be"),
        ({"kappa": -1.0}, "kappa must be >= 0"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FGM(**options)
