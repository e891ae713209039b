"""Sign-OPT on victims whose nearest adversarial point, and whose derivatives, have a closed form."""

import pytest
import torch

from tests.attacks.half_space import SIDE, D, estimate, gradient, grey, half_space, radius
from zeroth.attacks import SignOPT
from zeroth.oracles import LabelOracle

PAPER = {
    "q": 200,
    "start_cells": None,
    "directions": "sphere",
    "coarse_cells": None,
    "smallest_beta": 1e-8,
    "resolution": 500.0,
    "momentum": 0.0,
    "growth": 1.0,
    "clip": False,
    "restart": False,
}
# sign_opt_linf.yaml
CUBE = {
    "norm": "linf",
    "coarse_cells": 7,
    "coarse_steps": 5,
    "beta": 0.01,
    "smallest_beta": 1e-3,
    "momentum": 0.9,
}


@pytest.mark.parametrize(
    ("options", "budget"),
    [({}, 2500), ({"directions": "sphere"}, 2500), (PAPER, 5000), (CUBE, 4500)],
    ids=["ours", "sphere", "paper", "linf"],
)
def test_the_minimal_distance_of_a_linear_victim_is_reached(options, budget):
    victim, weight = half_space(0.5)
    attack = SignOPT(**options)
    result = attack(LabelOracle(victim), grey(1), torch.zeros(1).long(), budget=budget, seed=0)
    least = 0.5 if attack.norm == "l2" else 0.5 / float(weight.abs().sum())
    assert 1 - 1e-5 < float(result.distance) / least < 1.02


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_estimate_is_the_mean_of_signed_directions(norm):
    attack = SignOPT(norm=norm, q=500, beta=1e-3, clip=False)
    if norm == "linf":
        attack.probe = lambda theta, step: theta + step  # the tangent plane's side, as with clip
    out, u, theta, _, weight, result = estimate(attack)
    # Of a step that keeps its length, the sign is that of -w u.
    change = radius(theta.unsqueeze(1) + 1e-3 * u, weight) - radius(theta, weight).unsqueeze(1)
    slopes = change if norm == "l2" else -(u @ weight)
    expected = (slopes.sign().float().unsqueeze(2) * u).mean(1)
    assert result.queries.tolist() == [501] * 3
    # Rounding may turn the sign of a slope near 0; each sign counts 2 u / Q.
    assert float((out - expected).norm(dim=1).max()) <= 2.01 / 500 * float(u.norm(dim=2).max())


def test_a_poor_row_asks_half_of_what_is_left():
    attack = SignOPT(q=50)
    out, u, theta, _, weight, result = estimate(attack, budget=21)  # 20 after the first check
    signs = (u[:, :10] @ gradient(theta, weight).unsqueeze(2)).sign()
    assert result.queries.tolist() == [11] * 3
    assert torch.allclose(out, (signs * u[:, :10]).mean(1), atol=1e-6)


def test_the_sign_oracle_agrees_with_the_directional_derivative():
    """A sphere around a point off the image: g is smooth, and its derivative has a closed form."""
    centre = torch.full((D,), 0.5) + 0.05 * torch.randn(D, generator=torch.Generator().manual_seed(2))
    log = []

    def victim(points):
        log.append(points.clone())
        return (((points.flatten(1).double() - centre) ** 2).sum(1) > 1).long()

    attack = SignOPT(q=400, tries=10, coarse_cells=None, beta=1e-3, resolution=2000.0, momentum=0.0)
    attack(LabelOracle(victim), grey(1), torch.tensor([0]), budget=900, seed=0)
    # The oracle cuts the first 400 probes into batches of 128; before them it is asked a few points at a time.
    start = next(place for place, batch in enumerate(log) if len(batch) == 128)
    before, probes = torch.cat(log[:start]), torch.cat(log[start:])[:400]
    found = (before[victim(before) == 1].double() - 0.5).flatten(1)
    theta = found[found.norm(dim=1).argmin()]  # g theta, as it was asked
    size, theta = theta.norm(), theta / theta.norm()
    delta = probes.flatten(1).double() - 0.5
    assert float((delta.norm(dim=1) - size).abs().max()) < 1e-5  # all at the old distance
    unit = delta / delta.norm(dim=1, keepdim=True)
    assert float((unit - theta).norm(dim=1).max()) < 1.01e-3  # all a step of beta away

    def g(direction):  # the far crossing of |x0 + g theta - c| = 1
        offset = 0.5 - centre.double()
        along = direction @ offset
        return -along + (along**2 - offset @ offset + 1).sqrt()

    slope = g(unit) - g(theta)
    signs = torch.where(victim(probes) == 1, -1.0, 1.0)
    clear = slope.abs() > 0.1 * slope.abs().median()
    assert float(clear.double().mean()) > 0.8
    assert float((signs == slope.sign())[clear].double().mean()) >= 0.99
    assert abs(float(size - g(theta))) < 2e-6


def test_images_of_a_batch_do_not_share_directions():
    _, u, *_ = estimate(SignOPT(q=5))
    assert u.shape == (3, 5, SIDE * SIDE) and float((u[0] - u[1]).norm()) > 1
    assert torch.allclose(u.norm(dim=2), torch.ones(3, 5), atol=1e-5)
    _, u, *_ = estimate(SignOPT(q=5, directions="gaussian"))
    assert 6 < float(u.norm(dim=2).mean()) < 10  # sqrt(D) = 8
