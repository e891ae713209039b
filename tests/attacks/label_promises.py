"""What every attack on labels promises, checked on small linear victims; the tests of an attack call it.

Answers are compared as the oracle gives them, by float32 scores: a tie there need not be one in float64.
"""

import torch

from tests.victims import Linear, Logging, random_linear
from zeroth.attacks import Attack, AttackResult
from zeroth.oracles import LabelOracle

# A grey image of class 0, whose boundary is a plane at l_2 distance .5.
D, SHAPE = 64, (1, 8, 8)
WEIGHT = torch.randn(D, generator=torch.Generator().manual_seed(0))
WEIGHT = WEIGHT / WEIGHT.norm()
HALF_SPACE = Linear(torch.stack([torch.zeros(D), WEIGHT]), torch.stack([torch.zeros(()), -(0.5 * WEIGHT.sum() + 0.5)]))
GREY = torch.full((1, *SHAPE), 0.5)

NET = random_linear(5, 16)
IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
LABELS = NET(IMAGES).argmax(1)


def run(attack: Attack, budget: int, rows: slice = slice(None)) -> AttackResult:
    """Attack the images of ``rows`` under their own indices."""
    indices = torch.arange(len(IMAGES))[rows]
    return attack(LabelOracle(NET), IMAGES[rows], LABELS[rows], budget=budget, seed=0, indices=indices)


def counts_exactly(attack: Attack, budget: int, ends: set[str]) -> None:
    """The ledger agrees with the victim's own count; who leaves for none of the reasons ``ends`` spent the budget."""
    victim = Logging(NET)
    result = attack(LabelOracle(victim), IMAGES, LABELS, budget=budget, seed=0)
    assert victim.seen == int(result.queries.sum()) and int(result.queries.max()) <= budget
    spent = torch.tensor([reason == "budget" for reason in result.reason])
    assert bool((result.queries[spent] == budget).all()) and {*result.reason} <= {"budget", *ends}
    won = result.success
    assert bool((LabelOracle(NET)(result.adversarial) != LABELS)[won].all()) and (budget < 99 or bool(won.all()))
    assert torch.allclose(result.norms()[attack.norm][won], result.distance[won])
    assert bool(result.distance[~won].isinf().all())


def keeps_the_best(attack: Attack, budgets: range) -> None:
    """A smaller budget ends the same run earlier, wherever it is: inside a bisection too."""
    long = run(attack, budgets.stop)
    for budget in budgets:
        assert torch.allclose(run(attack, budget).distance, long.best_distance_at([budget])[0], rtol=1e-3)


def attacks_each_image_alone(attack: Attack, budget: int) -> None:
    """Neither a smaller batch nor a misclassified neighbour changes an image's run."""
    together, alone = run(attack, budget), run(attack, budget, slice(3, None))
    images, labels = torch.cat([IMAGES, IMAGES[:1]]), torch.cat([LABELS, (LABELS[:1] + 1) % 5])
    beside = attack(LabelOracle(NET), images, labels, budget=budget, seed=0)
    assert beside.reason[6] == "misclassified" and int(beside.queries[6]) == 1 and not bool(beside.success[6])
    for part, other in ((slice(3, 6), alone), (slice(0, 6), beside)):
        size = len(range(6)[part])
        assert torch.equal(together.queries[part], other.queries[:size])
        assert torch.allclose(together.distance[part], other.distance[:size], rtol=1e-3)


def ends_on_odd_images(attack: Attack, shape: tuple[int, int, int], budget: int, ends: set[str]) -> None:
    """Images of few pixels, one of them without contrast."""
    net = random_linear(3, shape[0] * shape[1] * shape[2], seed=4)
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    images[3] = 0.25
    labels = LabelOracle(net)(images)
    result = attack(LabelOracle(net), images, labels, budget=budget, seed=0)
    assert int(result.queries.max()) <= budget and not bool(result.adversarial.isnan().any())
    assert bool((LabelOracle(net)(result.adversarial) != labels)[result.success].all())
    assert {*result.reason} <= ends


def reports_a_constant_victim(attack: Attack, queries: int) -> None:
    """No start is found within so many queries, the first check included, and that is what is said."""
    oracle = LabelOracle(lambda images: torch.zeros(len(images)).long())
    result = attack(oracle, IMAGES[:2], LABELS[:2] * 0, budget=400, seed=0)
    assert result.reason == ["no start"] * 2 and result.queries.tolist() == [queries] * 2
    assert not bool(result.success.any()) and bool(result.distance.isinf().all())
