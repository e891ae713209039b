import pytest
import torch

from tests.victims import Logging, random_linear
from zeroth.attacks import NESPGD
from zeroth.oracles import ScoreOracle

NET = random_linear(5, 16)
IMAGE = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
LABEL = NET(IMAGE).argmax(1)


@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_iterates_follow_the_momentum_and_the_plateau_rule_on_what_was_asked(loss):
    """The slow obvious reference: replay the victim's log iteration by iteration."""
    samples, sigma, rate, smallest, momentum, window, epsilon = 3, 0.01, 0.06, 0.02, 0.6, 2, 0.1
    steps = {"learning_rate": rate, "smallest_rate": smallest, "momentum": momentum, "window": window}
    attack = NESPGD(epsilon=epsilon, samples=samples, sigma=sigma, loss=loss, cells=None, kappa=50.0, **steps)
    victim = Logging(NET)
    iterations = 12
    attack(ScoreOracle(victim), IMAGE, LABEL, budget=1 + iterations * (2 * samples + 1), seed=0)
    asked = victim.asked.flatten(1).double()
    t = int(LABEL)
    log_p = NET(victim.asked).log_softmax(1).double()
    values = log_p[:, t]
    if loss == "margin":
        values = values - torch.cat([log_p[:, :t], log_p[:, t + 1 :]], 1).amax(1)
    clean, at, velocity, losses, cuts = asked[0], asked[0], torch.zeros(16, dtype=torch.float64), [], 0
    value, place = values[0], 1
    for _ in range(iterations):
        g = torch.zeros(16, dtype=torch.float64)
        for pair in range(samples):
            plus, minus = asked[place + 2 * pair], asked[place + 2 * pair + 1]
            u = (plus - minus) / (2 * sigma * 4)
            assert float(u.norm()) == pytest.approx(1, abs=1e-4)
            g += 16 / samples * (values[place + 2 * pair] - values[place + 2 * pair + 1]) / (2 * sigma * 4) * u
        velocity = momentum * velocity + (1 - momentum) * g
        if len(losses) >= window and value > losses[-window]:
            rate, losses, cuts = max(rate / 2, smallest), [], cuts + 1
        else:
            losses.append(value)
        at = (clean + (at - rate * velocity.sign() - clean).clamp(-epsilon, epsilon)).clamp(0, 1)
        place += 2 * samples
        assert torch.allclose(asked[place], at, atol=1e-5)
        at, value = asked[place], values[place]
        place += 1
    assert cuts > 0


def test_shortened_last_request_keeps_pairs_whole():
    result = NESPGD(samples=5, epsilon=1e-4)(ScoreOracle(NET), IMAGE, LABEL, budget=18, seed=0)
    assert int(result.queries) == 1 + 11 + 5  # two pairs and an iterate; one query cannot be used


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smallest_rate": 0.5}, r"smallest_rate must lie in \(0, learning_rate = 0.2\], got 0.5"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"window": 0}, "window must be at least 1 iteration, got 0"),
        ({"loss": "hinge"}, "loss must be 'cross_entropy' or 'margin', got 'hinge'"),
        ({"sigma": 0.0}, r"sigma must be > 0 in \[0, 1\] pixels, got 0.0"),
    ],
)
def test_bad_hyperparameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        NESPGD(**{"learning_rate": 0.2} | options)
