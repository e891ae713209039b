"""ZO-SignSGD: its estimate in closed form, by one query a sign and by a search a sign."""

import pytest
import torch

from tests.attacks.half_space import estimate, gradient, grey, half_space
from zeroth.attacks import SignOPT, ZOSignSGD
from zeroth.oracles import LabelOracle


@pytest.mark.parametrize("single_query", [True, False])
def test_the_estimate_is_the_mean_of_the_signs_of_pixels(single_query):
    attack = ZOSignSGD(q=40, resolution=2000.0, single_query=single_query)
    out, u, theta, _, weight, result = estimate(attack)
    slopes = (u @ gradient(theta, weight).unsqueeze(2))[..., 0]
    assert torch.allclose(out, (slopes.sign().unsqueeze(2) * u.sign()).mean(1), atol=1e-6)
    if single_query:
        assert result.queries.tolist() == [41] * 3
    else:  # a request, a bracket and a bisection each
        assert bool((result.queries > 1 + 40 * 5).all())


def test_directions_of_equal_pixels_make_it_sign_opt():
    """Where all pixels of a direction have one size, the signs are the direction up to that size."""
    attacks = ZOSignSGD(q=30), SignOPT(q=30)
    for attack in attacks:
        drawn = attack.draw
        attack.draw = lambda *arguments, drawn=drawn: drawn(*arguments).sign() / 8
    ours, sign_opt = (estimate(attack)[0] for attack in attacks)
    assert torch.allclose(ours / 8, sign_opt, atol=1e-6)


def test_the_minimal_distance_of_a_linear_victim_is_reached():
    victim, _ = half_space(0.5)
    result = ZOSignSGD()(LabelOracle(victim), grey(1), torch.zeros(1).long(), budget=3500, seed=0)
    assert 1 - 1e-5 < float(result.distance) / 0.5 < 1.02
