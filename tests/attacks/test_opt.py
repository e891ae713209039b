"""OPT: differences of g against its closed form on a plane."""

import torch

from tests.attacks.half_space import Estimating, estimate, gradient, grey, half_space, radius
from zeroth.attacks import OPT
from zeroth.oracles import LabelOracle


def test_the_estimate_is_the_mean_of_slopes_along_directions():
    attack = OPT(q=10, beta=1e-2, resolution=5000.0)
    out, u, theta, _, weight, result = estimate(attack)
    slopes = (radius(theta.unsqueeze(1) + 1e-2 * u, weight) - radius(theta, weight).unsqueeze(1)) / 1e-2
    expected = (slopes.unsqueeze(2) * u).mean(1)
    assert float((out - expected).norm(dim=1).max()) < 0.01 * float(expected.norm(dim=1).min())
    along = (gradient(theta, weight).unsqueeze(1) * u).sum(2)
    assert float((slopes - along).abs().max()) < 0.05 * float(along.abs().max())  # beta is small
    assert bool((result.queries > 1 + 10 * 5).all()) and bool((result.queries < 1 + 10 * 25).all())


def test_the_nearest_probe_becomes_theta():
    attack = OPT(q=30, beta=1e-2, resolution=500.0)
    _, u, theta, state, weight, _ = estimate(attack)
    moved = theta.unsqueeze(1) + 1e-2 * u
    g, best = radius(moved, weight).min(1)
    assert bool((g < radius(theta, weight)).all())
    assert torch.allclose(state.g, g.float(), rtol=5e-5)
    nearest = moved[torch.arange(3), best]
    assert torch.allclose(state.theta.flatten(1), nearest / nearest.norm(dim=1, keepdim=True), atol=1e-5)


def test_a_direction_without_a_boundary_is_left_out():
    """Class 1 is a thin cone around the start: most probes are in class 0 however far."""

    def cone(images):
        delta = (images - 0.5).flatten(1)
        return ((delta[:, 0] > 0.2) & (delta[:, 1:].abs().amax(1) <= 0.002 * delta[:, 0])).long()

    attack = OPT(q=20, beta=0.01)
    theta = torch.zeros(1, 64)
    theta[0, 0] = 1
    probe = Estimating(attack, theta, torch.tensor([0.2001]))
    probe(LabelOracle(cone), grey(1), torch.tensor([0]), budget=5000, seed=0)
    assert bool(probe.out.isfinite().all()) and float(probe.state.g) <= 0.2002


def test_the_distance_of_a_linear_victim_falls_towards_its_minimum():
    victim, _ = half_space(0.5)
    result = OPT()(LabelOracle(victim), grey(1), torch.zeros(1).long(), budget=2000, seed=0)
    assert 1 - 1e-5 < float(result.distance) / 0.5 < 1.13
