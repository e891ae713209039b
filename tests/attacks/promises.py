"""What every score attack in a ball promises; the tests of an attack call it on victims that round image by image."""

from torch import Tensor, nn

from zeroth.attacks import Attack
from zeroth.oracles import ScoreOracle


def an_image_stands_alone(attack: Attack, victim: nn.Module, images: Tensor, labels: Tensor, *, budget: int) -> None:
    """Neither its batch nor a wrong neighbour changes an image's run, to the bit; the wrong one costs its check."""
    labels = labels.clone()
    labels[1] = (labels[1] + 1) % victim(images).shape[1]
    together = attack(ScoreOracle(victim), images, labels, budget=budget, seed=0)
    assert together.reason[1] == "misclassified" and int(together.queries[1]) == 1 and not together.success[1]
    for row in (row for row in range(len(images)) if row != 1):
        part = slice(row, row + 1)
        alone = attack(ScoreOracle(victim), images[part], labels[part], budget=budget, seed=0, indices=[row])
        assert alone.adversarial[0].equal(together.adversarial[row])
        assert int(alone.queries) == int(together.queries[row])


def successes_hold(attack: Attack, victim: nn.Module, images: Tensor, labels: Tensor, *, budget: int) -> None:
    """What is claimed is adversarial when it is asked again, and inside the ball."""
    result = attack(ScoreOracle(victim), images, labels, budget=budget, seed=0)
    won = result.success
    assert (victim(result.adversarial[won]).argmax(1) != labels[won]).all()
    assert (result.predicted[won] != labels[won]).all()
    assert attack.epsilon is not None and (result.distance[won] <= attack.epsilon + 1e-6).all()
