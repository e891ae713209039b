import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zeroth.attacks.constant_search import ConstantSearch, check_search


def make(size, **options):
    base = {"initial": 0.001, "iterations": 1, "searches": 9, "windows": 0, "device": torch.device("cpu")}
    return ConstantSearch(size, **base | options)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-4, 3), min_size=1, max_size=5), st.integers(1, 14))
def test_constants_against_a_plain_loop(thresholds, searches):
    """An image is beaten by every c above its threshold: tenfold until one works, then the middle."""
    search, rows = make(len(thresholds), searches=searches), torch.arange(len(thresholds))
    limits = torch.tensor([10**t for t in thresholds])
    tried = []
    for _ in range(searches):
        assert not search.spent(rows).any()
        tried.append(search.constant.clone())
        assert torch.equal(search.enter(rows, torch.ones(len(rows)), search.constant > limits), rows)
    assert search.spent(rows).all()
    for row, limit in enumerate(limits.tolist()):
        c, low, high = 0.001, 0.0, math.inf
        for column in tried:
            assert float(column[row]) == pytest.approx(c, rel=1e-5)
            # The comparison as it was made, in float32: near the threshold the plain loop may see it otherwise.
            if float(column[row]) > limit:
                high = c
            else:
                low = c
            c = c * 10 if math.isinf(high) else (low + high) / 2


def test_constants_stay_finite_where_nothing_ever_works():
    search, rows = make(1, searches=None), torch.arange(1)
    for _ in range(100):
        search.enter(rows, torch.ones(1), torch.zeros(1, dtype=torch.bool))
    assert float(search.constant) == 1e10 and not search.spent(rows).any()


def test_each_image_ends_its_own_search():
    """Windows of 2: image 0 stands still after one, image 1 falls on and goes through; image 2 is not asked."""
    search, rows = make(3, iterations=20, windows=10), torch.arange(2)
    nothing = torch.zeros(2, dtype=torch.bool)
    ends = []
    for iteration in range(1, 21):
        loss = torch.tensor([5.0, 100.0 - iteration])
        ends += [(iteration, row) for row in search.enter(rows, loss, nothing).tolist()]
    # Image 0: its first look is compared with inf, its second with the first.
    assert ends == [(4, 0), (8, 0), (12, 0), (16, 0), (20, 0), (20, 1)]
    assert search.done.tolist() == [5, 1, 0]
    assert search.constant.tolist() == pytest.approx([100.0, 0.01, 0.001])
    assert search.iteration.tolist() == [0, 0, 0]


def test_a_success_anywhere_in_a_search_makes_it_one():
    search, rows = make(1, iterations=3), torch.arange(1)
    for won in (True, False, False):
        search.enter(rows, torch.ones(1), torch.tensor([won]))
    assert float(search.high) == pytest.approx(0.001) and float(search.constant) == pytest.approx(0.0005)
    for _ in range(3):
        search.enter(rows, torch.ones(1), torch.tensor([False]))
    assert float(search.low) == pytest.approx(0.0005) and float(search.constant) == pytest.approx(0.00075)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": 0.0}, r"constant must lie in \(0, 1e\+10\], got 0.0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"searches": 0}, "searches must be at least 1, or None for no end but the budget, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be > 0, got 0.0"),
        ({"kappa": -1.0}, "kappa must be >= 0, got -1.0"),
    ],
)
def test_bad_settings_are_named(change, message):
    good = {"initial": 1.0, "iterations": 1, "searches": None, "learning_rate": 0.1, "kappa": 0.0}
    check_search(**good)
    with pytest.raises(ValueError, match=message):
        check_search(**good | change)
