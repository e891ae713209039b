import pytest
import torch

from tests.victims import Logging, random_linear
from zeroth.attacks import RGESign
from zeroth.oracles import ScoreOracle

NET = random_linear(5, 36)
IMAGE = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
LABEL = NET(IMAGE).argmax(1)


@pytest.mark.parametrize("cells", [None, 3])
def test_steps_are_the_sign_of_the_estimate_inside_ball_and_box(cells):
    samples, mu, rate, epsilon = 8, 0.2, 0.07, 0.1
    victim = Logging(NET)
    attack = RGESign(epsilon=epsilon, samples=samples, mu=mu, learning_rate=rate, cells=cells, kappa=50.0)
    attack(ScoreOracle(victim), IMAGE, LABEL, budget=1 + 3 * 9, seed=0)
    asked, t = victim.asked.flatten(1).double(), int(LABEL)
    log_p = NET(victim.asked).log_softmax(1).double()
    margin = log_p[:, t] - torch.cat([log_p[:, :t], log_p[:, t + 1 :]], 1).amax(1)
    clean, at = asked[0], 0
    for iteration in range(3):
        probes = slice(1 + 9 * iteration, 9 + 9 * iteration)
        u = (asked[probes] - asked[at]) / mu
        if cells:
            blocks = u.reshape(8, 6, 6).unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)
            assert torch.allclose(blocks.amax(-1), blocks.amin(-1), atol=1e-5)
        g = ((margin[probes] - margin[at])[:, None] * u).sum(0)
        expected = (clean + (asked[at] - rate * g.sign() - clean).clamp(-epsilon, epsilon)).clamp(0, 1)
        at = 9 + 9 * iteration
        assert torch.allclose(asked[at], expected, atol=1e-5)


def test_minimises_a_linear_margin_in_one_large_step():
    """With more directions than unknowns the signs are nearly all right, and the corner of the ball is the optimum."""
    net = random_linear(2, 36)
    label = net(IMAGE).argmax(1)
    attack = RGESign(epsilon=0.2, samples=2000, mu=1e-2, learning_rate=1.0, cells=None, kappa=1e3)
    victim = Logging(net)
    attack(ScoreOracle(victim), IMAGE, label, budget=2002, seed=0)
    weight = (net.weight[int(label)] - net.weight[1 - int(label)]).float()
    moved = (victim.asked[-1] - IMAGE[0]).flatten()
    best = -0.2 * weight.abs().sum()
    assert float(moved @ weight) < 0.97 * float(best)


@pytest.mark.parametrize(("cells", "freedom"), [(None, 36), (3, 9), (50, 36)])
def test_the_estimate_of_a_linear_gradient_is_unbiased_on_what_the_directions_span(cells, freedom):
    """Its mean over 20,000 directions is the gradient, averaged over each cell where directions are flat on cells."""
    seen = []

    class Watching(RGESign):
        def descend(self, trial, probes, state):
            assert probes.freedom == freedom
            seen.append(
                self.gradient(
                    probes, self.objective(trial, probes.answers, probes.rows), trial.margin(probes.base, probes.rows)
                )
            )
            return super().descend(trial, probes, state)

    net = random_linear(2, 36)
    label = net(IMAGE).argmax(1)
    Watching(epsilon=0.1, samples=20_000, mu=1e-3, cells=cells, kappa=1e3)(
        ScoreOracle(net), IMAGE, label, budget=20_002, seed=0
    )
    gradient = (net.weight[int(label)] - net.weight[1 - int(label)]).reshape(6, 6)
    if cells == 3:
        gradient = gradient.reshape(3, 2, 3, 2).mean((1, 3)).repeat_interleave(2, 0).repeat_interleave(2, 1)
    error = seen[0].reshape(6, 6).double() - gradient
    # Variance of the mean over q unit directions of m independent coordinates: (m - 1) |g|^2 / q in all.
    assert float(error.norm()) < 1.5 * ((freedom - 1) / 20_000) ** 0.5 * float(gradient.norm()) + 1e-3
