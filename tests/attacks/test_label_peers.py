"""Attacks on labels beside those of foolbox and the adversarial-robustness-toolbox: ``pip install -e ".[peers]"``.

The same victim, images and queries; the peers' trial counts theirs, and the victim itself confirms it.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.peers import ARTHopSkipJump, ARTSignOPT, FoolboxBoundary, FoolboxHopSkipJump, Peer, global_draws
from tests.attacks.peer_victim import right_images, trained_victim
from tests.victims import Logging, random_linear
from zeroth.attacks import Boundary, HopSkipJump, SignOPT
from zeroth.attacks.attack import Attack
from zeroth.oracles import LabelOracle

WORSE = 1.03  # a median distance may be higher than the peer's by so much
BUDGET, IMAGES = 1000, 20
NET = random_linear(3, 16)
GREY = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4


class Blind(Peer):
    """Asks batches of seven random points for ever, as a peer does that knows no budget."""

    library = "torch"

    def drive(self, box, image: Tensor) -> None:
        while True:
            assert box(torch.rand(7, *image.shape[1:]) * 3 - 1).sum(1).tolist() == [1.0] * 7
            np.random.rand()


@pytest.mark.parametrize("budget", [1, 2, 8, 40])
def test_a_peer_without_a_budget_spends_its_own_and_no_more(budget):
    victim = Logging(NET)
    labels = NET(GREY).argmax(1)
    result = Blind()(LabelOracle(victim), GREY, labels, budget=budget, seed=0)
    assert result.queries.tolist() == [budget] * 4 and victim.seen == 4 * budget
    assert result.reason == ["budget"] * 4
    asked = victim.asked[4:].reshape(4, budget - 1, 1, 4, 4)  # one image after another
    assert asked.numel() == 0 or (asked.min() == 0 and asked.max() == 1)
    for row in range(4):
        met = LabelOracle(NET)(asked[row]) != labels[row] if budget > 1 else torch.zeros(0).bool()
        sizes = (asked[row] - GREY[row]).flatten(1).norm(dim=1)[met]
        assert float(result.distance[row]) == pytest.approx(float(sizes.min()) if len(sizes) else torch.inf)


def test_a_peer_draws_by_seed_and_image_and_leaves_the_global_generators_alone():
    labels = NET(GREY).argmax(1)
    with global_draws(5):
        first = torch.rand(1), np.random.rand()
    with global_draws(5):
        together = Blind()(LabelOracle(NET), GREY, labels, budget=40, seed=1, indices=[5, 6, 7, 8])
        assert (torch.rand(1), np.random.rand()) == first
    alone = Blind()(LabelOracle(NET), GREY[2:3], labels[2:3], budget=40, seed=1, indices=[7])
    assert torch.equal(alone.distance, together.distance[2:3])


def test_what_a_peer_refuses():
    class Elsewhere(Blind):
        library = "no_such_library"

    labels = NET(GREY).argmax(1)
    with pytest.raises(ValueError, match=r'needs the package no_such_library, which is missing: pip install -e ".\[pe'):
        Elsewhere()(LabelOracle(NET), GREY, labels, budget=3, seed=0)
    with pytest.raises(ValueError, match="Blind runs untargeted attacks alone"):
        Blind()(LabelOracle(NET), GREY, labels, (labels + 1) % 3, budget=3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "peer"),
    [
        (SignOPT(), ARTSignOPT),
        (HopSkipJump(), ARTHopSkipJump),
        (HopSkipJump(), FoolboxHopSkipJump),
        (Boundary(), FoolboxBoundary),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_median_distance_is_not_above_the_peer_s(ours: Attack, peer: type[Peer]):
    pytest.importorskip(peer.library, reason='needs the peers: pip install -e ".[peers]"')
    images, labels = right_images(IMAGES)
    victim = Logging(trained_victim())
    theirs = peer()(LabelOracle(victim), images, labels, budget=BUDGET, seed=0)
    assert victim.seen == int(theirs.queries.sum()) and set(theirs.queries.tolist()) == {BUDGET}
    result = ours(LabelOracle(victim.model), images, labels, budget=BUDGET, seed=0)
    mine, his = (told.best_distance_at([BUDGET // 2, BUDGET]).median(1).values for told in (result, theirs))
    print(
        f"{peer.__name__}: median l2 at {BUDGET // 2} and {BUDGET} queries {mine.tolist()} to {his.tolist()}, "
        f"found {int(result.success.sum())} to {int(theirs.success.sum())} of {len(images)}"
    )
    assert int(theirs.success.sum()) >= IMAGES // 2  # the peer works at all
    assert int(result.success.sum()) >= int(theirs.success.sum())
    assert bool((mine <= WORSE * his).all())
