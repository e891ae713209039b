import pytest
import torch

from tests.victims import Logging, random_linear
from zeroth.attacks import PGD
from zeroth.oracles import Goal, GradientOracle, ImageStreams, Rules, Trial

NET = random_linear(2, 25)
IMAGES = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
LABELS = NET(IMAGES).argmax(1)
NEVER = 1e6  # a confidence that no point has: the attack goes on to the end of its budget


def margins(images, labels):
    """Margins (N,) of images (N, ...) and the pixels' weights in them, (N, 25)."""
    slope = (NET.weight[labels] - NET.weight[1 - labels]).double()
    return (images.double().flatten(1) * slope).sum(1) + (NET.bias[labels] - NET.bias[1 - labels]), slope


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.3)])
def test_reaches_the_closed_form_of_its_ball(norm, epsilon, loss, random_start):
    """min of w x over the ball: w x_0 - epsilon ||w||_*, the dual norm."""
    attack = PGD(
        epsilon=epsilon,
        norm=norm,
        steps=60,
        learning_rate=epsilon / 4,
        random_start=random_start,
        loss=loss,
        kappa=NEVER,
    )
    victim = Logging(NET)
    attack(GradientOracle(victim), IMAGES, LABELS, budget=1 + 60 + int(random_start or loss != "margin"), seed=0)
    clean, slope = margins(IMAGES, LABELS)
    reached, _ = margins(victim.asked[-4:], LABELS)
    assert torch.allclose(reached, clean - epsilon * slope.norm(p=1 if norm == "linf" else 2, dim=1), rtol=1e-4)


def test_the_box_cuts_the_corner_of_the_ball():
    images = (IMAGES - 0.4) * 5  # pixels all over [0, 1]
    labels = NET(images).argmax(1)
    victim = Logging(NET)
    PGD(epsilon=0.3, learning_rate=0.1, kappa=NEVER)(GradientOracle(victim), images, labels, budget=11, seed=0)
    _, slope = margins(images, labels)
    corner = (images.flatten(1) - 0.3 * slope.sign().float()).clamp(0, 1)
    assert torch.allclose(victim.asked[-4:].flatten(1), corner, atol=1e-6)


def test_the_first_step_costs_one_query_and_runs_start_again_at_random():
    victim = Logging(NET)
    attack = PGD(epsilon=0.1, steps=3, learning_rate=0.03, restarts=2, kappa=NEVER)
    result = attack(GradientOracle(victim), IMAGES[:1], LABELS[:1], budget=100, seed=0)
    assert result.reason == ["restarts"] and int(result.queries) == 1 + 3 + 2 * (1 + 3)
    asked = victim.asked.flatten(1)
    steps = (asked[1:] - asked[:-1]).abs().amax(1)
    assert torch.allclose(steps[[0, 1, 2]], torch.tensor(0.03), atol=1e-6)
    starts = asked[[4, 8]] - asked[0]
    assert (starts.abs() <= 0.1 + 1e-6).all() and float((starts[0] - starts[1]).abs().max()) > 0.02


@pytest.mark.parametrize(("norm", "moment"), [("linf", 25 / 3), ("l2", 25 / 27)])
def test_starts_are_uniform_in_the_ball(norm, moment):
    """E ||u||_2^2 is D / 3 in the cube of radius 1, D / (D + 2) in the ball."""
    images = torch.full((20_000, 1, 5, 5), 0.5)
    trial = Trial(
        GradientOracle(NET),
        images,
        Goal(torch.ones(len(images), dtype=torch.int64)),
        Rules(lambda delta: delta.flatten(1).norm(dim=1)),
        budget=torch.full((len(images),), 9),
        streams=ImageStreams(0, range(len(images))),
    )
    starts = PGD(epsilon=0.2, norm=norm).start(trial, torch.arange(len(images))).flatten(1) / 0.2
    assert float(starts.norm(p=torch.inf if norm == "linf" else 2, dim=1).max()) <= 1 + 1e-5
    assert float(starts.square().sum(1).mean()) == pytest.approx(moment, rel=0.01)
    assert float(starts.mean(0).abs().max()) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, r"epsilon must be > 0 in \[0, 1\] pixels, got 0.0"),
        ({"norm": "l1"}, "norm must be 'linf' or 'l2', got 'l1'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0"),
        ({"restarts": -1}, "restarts must be >= 0, or None"),
        ({"kappa": -1.0}, "kappa must be >= 0, got -1.0"),
        ({"loss": "hinge"}, "loss must be 'cross_entropy' or 'margin', got 'hinge'"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        PGD(**options)
