"""Two runs image by image: who is paired with whom, McNemar, bootstrap intervals, refusals."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from tests.records.examples import attacks, certificate, certificates, found, four_cells, lost
from zeroth.records import (
    Bootstrap,
    compare_attacks,
    compare_certificates,
    comparison_frame,
    left_out_line,
)
from zeroth.records.compare import paired_rate_interval

FAST = Bootstrap(resamples=200)


@pytest.mark.parametrize("cells", [(30, 1, 9, 10), (0, 12, 3, 0), (5, 4, 4, 2), (700, 40, 80, 30), (8, 0, 0, 2)])
def test_mcnemar_is_the_binomial_test_of_the_images_that_only_one_run_won(cells):
    _, only_a, only_b, _ = cells
    told = compare_attacks(*four_cells(*cells), resampling=FAST)["success"]
    assert tuple(told[key] for key in ("both", "only_a", "only_b", "neither")) == cells
    expected = stats.binomtest(only_b, only_a + only_b).pvalue if only_a + only_b else 1
    assert told["p_value"] == pytest.approx(expected, rel=1e-9)
    n = sum(cells)
    assert (told["n"], told["a"], told["b"]) == (n, (cells[0] + only_a) / n, (cells[0] + only_b) / n)
    assert told["difference"] == pytest.approx((only_b - only_a) / n)
    assert (told["low"], told["high"]) == paired_rate_interval(only_a, only_b, n)
    assert told["low"] < told["difference"] < told["high"] or 1 in (-told["low"], told["high"])


@pytest.mark.parametrize("n", [1, 60, 1000])
def test_where_no_image_differs_the_rates_may_still_differ(n):
    """Closed form: n d = z sqrt(n d (1 - d)), of n images none of which differs."""
    z2 = stats.chi2.ppf(0.95, 1)
    low, high = paired_rate_interval(0, 0, n)
    assert high == pytest.approx(z2 / (n + z2)) and low == pytest.approx(-high)
    assert n != 60 or 0.06 < high < 0.061  # a difference of 5 points would leave no trace once in twenty times


def test_where_all_images_differ_alike_the_interval_is_wilsons_of_a_certain_rate():
    """Every image counts in B alone: the share p of those has Wilson's [n / (n + z^2), 1], and 2 p - 1 is the worst."""
    z2 = stats.chi2.ppf(0.9, 1)
    low, high = paired_rate_interval(0, 20, 20, confidence=0.9)
    assert high == 1 and low == pytest.approx(2 * 20 / (20 + z2) - 1)


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(2, 12, 50), (0, 3, 60), (7, 7, 30), (40, 3, 90), (1, 0, 2)])
def test_the_ends_are_a_score_tests_critical_values(only_a, only_b, n):
    """At both ends the difference is z standard errors away, those of the likeliest table with that true difference."""
    for end in paired_rate_interval(only_a, only_b, n):
        floor, top = max(0.0, -end), (1 - end) / 2

        def unlikely(a: float, end: float = end) -> float:  # of the share a that counts in A alone
            return -sum(
                special.xlogy(k, p) for k, p in ((only_a, a), (only_b, a + end), (n - only_a - only_b, 1 - 2 * a - end))
            )

        a = optimize.minimize_scalar(unlikely, bounds=(floor, top), method="bounded", options={"xatol": 1e-12}).x
        error = np.sqrt((2 * a + end - end**2) / n)
        assert abs((only_b - only_a) / n - end) / error == pytest.approx(stats.norm.ppf(0.975), rel=1e-4)


@pytest.mark.parametrize(("n", "least"), [(10, 0.91), (30, 0.925)])
def test_the_interval_of_rates_covers_the_truth(n, least):
    """Counted out over all tables of n images, for shares of images that differ in steps of a tenth."""
    tables = np.array([(a, b, n - a - b) for a in range(n + 1) for b in range(n + 1 - a)])
    ends = np.array([paired_rate_interval(int(a), int(b), n) for a, b, _ in tables])
    covered = []
    for a, b in ((k / 10, j / 10) for k in range(11) for j in range(11 - k)):
        chances = stats.multinomial.pmf(tables, n, [a, b, max(0.0, 1 - a - b)])
        inside = (ends[:, 0] <= b - a + 1e-9) & (b - a - 1e-9 <= ends[:, 1])
        covered.append(chances[inside].sum())
    assert min(covered) > least and 0.95 < np.mean(covered) < 0.98


def test_each_figure_has_the_images_it_can_have():
    a = attacks(found(0, 10, l2=0.4), found(1, 20, l2=0.8), lost(2, 100), found(3, 40, l2=0.2), lost(4, 100))
    b = attacks(found(0, 4, l2=0.5), found(1, 8, l2=0.6), found(2, 90, l2=0.9), lost(3, 100), lost(4, 100))
    told = compare_attacks(a, b, norms=("l2", "linf"), resampling=FAST)
    assert (told["n"], told["n_attacked"], told["left_out"]) == (5, 5, {"a": 0, "b": 0, "neither": 0})
    # failures included: 10 20 100 40 100 and 4 8 90 100 100
    queries = told["queries"]
    assert (queries["n"], queries["a"], queries["b"]) == (
        5, {"mean": 54, "median": 40}, {"mean": pytest.approx(60.4), "median": 90}
    )  # fmt: skip
    assert queries["difference"] == pytest.approx(6.4)
    # images 0 and 1 alone were won by both
    first = told["queries_to_success"]
    assert (first["n"], first["a"]["mean"], first["b"]["mean"], first["difference"]) == (2, 15, 6, -9)
    near = told["distance"]["l2"]
    assert (near["n"], near["a"]["mean"], near["b"]["mean"]) == (2, pytest.approx(0.6), pytest.approx(0.55))
    assert near["difference"] == pytest.approx(-0.05)
    assert told["distance"]["linf"]["difference"] == pytest.approx(-0.05 / 4)


def test_pairs_that_all_differ_alike_leave_no_doubt():
    queries = np.random.default_rng(2).permutation(90) + 1
    a, b = (attacks(*(found(i, int(q) + more) for i, q in enumerate(queries))) for more in (0, 5))
    told = compare_attacks(a, b.iloc[::-1], resampling=FAST)
    for name in ("queries", "queries_to_success"):
        assert (told[name]["difference"], told[name]["low"], told[name]["high"]) == (5, 5, 5)
    rng = np.random.default_rng(3)
    b = attacks(*(found(i, int(q)) for i, q in enumerate(rng.permutation(queries))))
    told = compare_attacks(a, b, resampling=FAST)["queries"]
    assert (told["low"], told["high"]) == FAST.interval(b["queries"].to_numpy(float) - queries)


def test_the_interval_is_scipys_paired_bca():
    rng = np.random.default_rng(5)
    one = rng.exponential(100, 60)
    two = one * rng.uniform(0.5, 1.1, 60)

    def difference(x, y, axis):
        return y.mean(axis) - x.mean(axis)

    reference = stats.bootstrap((one, two), difference, paired=True, vectorized=True, n_resamples=9999, rng=1)
    low, high = Bootstrap(seed=7).interval(two - one)
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert low == pytest.approx(reference.confidence_interval.low, abs=0.03 * width)
    assert high == pytest.approx(reference.confidence_interval.high, abs=0.03 * width)
    # Ignoring that the images are the same would give an interval several times as wide.
    loose = stats.bootstrap((one, two), difference, paired=False, vectorized=True, n_resamples=999, rng=1)
    assert loose.confidence_interval.high - loose.confidence_interval.low > 2 * (high - low)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    resampling = Bootstrap(resamples=400, confidence=0.9)
    for _ in range(300):
        low, high = resampling.interval(rng.gamma(2, 1, 60) - 2)
        covered += low <= 0 <= high
    assert stats.binomtest(covered, 300, 0.9).pvalue > 0.001


def test_the_seed_fixes_the_interval_and_memory_does_not_change_it(monkeypatch):
    differences = np.random.default_rng(1).normal(size=50)
    first = Bootstrap(resamples=500).interval(differences)
    assert Bootstrap(resamples=500).interval(differences) == first
    assert Bootstrap(resamples=500, seed=1).interval(differences) != first
    monkeypatch.setattr("zeroth.records.compare.BATCH_NUMBERS", 50 * 7)  # 7 resamples at once
    assert Bootstrap(resamples=500).interval(differences) == pytest.approx(first)


@pytest.mark.parametrize("value", [0.0, -3.0, 0.1])
def test_equal_differences_have_an_interval_of_no_width(value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FAST.interval(np.full(30, value)) == (pytest.approx(value), pytest.approx(value))


def test_where_bca_has_no_value_the_percentile_interval_stands_in():
    differences, options = np.array([0.0, 0.0, 1.0]), {"n_resamples": 3, "vectorized": True}
    seeds = []
    for seed in range(200):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bca = stats.bootstrap((differences,), np.mean, rng=np.random.default_rng(seed), **options)
        if not np.isfinite(bca.confidence_interval).all():
            seeds.append(seed)
            percentile = stats.bootstrap(
                (differences,), np.mean, rng=np.random.default_rng(seed), method="percentile", **options
            )
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                interval = Bootstrap(resamples=3, seed=seed).interval(differences)
            assert interval == pytest.approx(tuple(percentile.confidence_interval))
    assert seeds  # the case is not made up


def test_one_image_has_figures_but_no_interval_and_none_has_nothing():
    told = compare_attacks(attacks(found(3, 10)), attacks(found(3, 30)), resampling=FAST)
    assert (told["queries"]["difference"], told["queries"]["low"], told["queries"]["high"]) == (20, None, None)
    assert (told["success"]["p_value"], told["success"]["a"], told["queries"]["n_differ"]) == (1, 1, 1)
    wrong = attacks(lost(3, 1, "misclassified", predicted=2))
    told = compare_attacks(wrong, wrong, resampling=FAST)
    assert (told["n"], told["n_attacked"], told["left_out"]) == (1, 0, {"a": 0, "b": 0, "neither": 1})
    assert told["success"] == dict.fromkeys(("p_value", "a", "b", "difference", "low", "high")) | dict.fromkeys(
        ("n", "both", "only_a", "only_b", "neither"), 0
    )
    nothing = {"mean": None, "median": None}
    assert told["queries"] == dict.fromkeys(("difference", "low", "high")) | {
        "n": 0,
        "n_differ": 0,
        "a": nothing,
        "b": nothing,
    }
    text = comparison_frame(told, ("a", "b"))
    assert text.iloc[:, 1:4].to_numpy().tolist() == [["-"] * 3] * 4


def test_images_that_one_victim_gets_wrong_are_left_out_and_told():
    out = {"queries": 1, "reason": "misclassified", "predicted": 9}
    a = attacks(found(0, 10), lost(1, **out), found(2, 30), lost(3, **out), found(4, 7))
    b = attacks(found(0, 20), found(1, 50), lost(2, **out), lost(3, **out), lost(4, 0, "total_budget", predicted=-1))
    told = compare_attacks(a, b, resampling=FAST)
    assert (told["n_attacked"], told["left_out"]) == (1, {"a": 2, "b": 1, "neither": 1})
    assert (told["queries"]["a"]["mean"], told["queries"]["b"]["mean"]) == (10, 20)
    assert left_out_line(told) == (
        "1 of 5 images compared; left out: 2 attacked in A only, 1 in B only, 1 in neither (wrong from the start, or "
        "never asked)"
    )
    assert left_out_line(compare_attacks(*four_cells(1, 1, 1, 1), resampling=FAST)) is None


@settings(max_examples=30)
@given(st.permutations(range(8)), st.permutations(range(8)))
def test_the_order_of_the_rows_does_not_matter(one, two):
    a = attacks(*(found(i, 10 + i) if i % 3 else lost(i) for i in range(8)))
    b = attacks(*(found(i, 3 * i + 1) if i % 2 else lost(i) for i in range(8)))
    resampling = Bootstrap(resamples=20)
    expected = compare_attacks(a, b, resampling=resampling)
    assert compare_attacks(a.iloc[list(one)], b.iloc[list(two)], resampling=resampling) == expected


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 90), st.booleans(), st.integers(1, 90)), max_size=12))
def test_the_other_way_round_everything_changes_sign(rows):
    a, b = (
        attacks(*(found(i, row[k + 1]) if row[k] else lost(i) for i, row in enumerate(rows)))
        for k in (0, 2)
    )  # fmt: skip
    there, back = (compare_attacks(*pair, resampling=Bootstrap(resamples=20)) for pair in ((a, b), (b, a)))
    assert there["success"]["p_value"] == back["success"]["p_value"]
    if rows:
        assert (there["success"]["low"], there["success"]["high"]) == (
            -back["success"]["high"],
            -back["success"]["low"],
        )
    for name in ("success", "queries", "queries_to_success"):
        assert (there[name]["a"], there[name]["b"]) == (back[name]["b"], back[name]["a"])
        if there[name]["difference"] is not None:
            assert there[name]["difference"] == pytest.approx(-back[name]["difference"])


def test_different_images_are_refused_by_number_and_name():
    a, b = attacks(*map(found, range(10))), attacks(*map(found, range(8, 11)))
    with pytest.raises(ValueError) as caught:
        compare_attacks(a, b)
    assert str(caught.value) == (
        "A and B hold different images: 8 (0, 1, 2, 3, 4, ...) only in A, 1 (10) only in B. "
        "Give both runs the same --images options, and let both end"
    )
    with pytest.raises(ValueError, match=r"2 \(8, 9\) only in A, none only in B"):
        compare_certificates(
            certificates(*map(certificate, range(10))), certificates(*map(certificate, range(8))), radii=[0]
        )


def test_different_labels_targets_and_kinds_are_refused():
    a = attacks(found(4), found(5, label=2), found(6))
    with pytest.raises(ValueError, match=r"differ in the label of 1 \(5\): image 5 has 2 in A, 0 in B"):
        compare_attacks(a, attacks(found(4), found(5), found(6)))
    a = attacks(found(4, target=3), found(5, target=3))
    with pytest.raises(ValueError, match=r"differ in the target of 1 \(5\): image 5 has 3 in A, 7 in B"):
        compare_attacks(a, attacks(found(4, target=3), found(5, target=7)))
    with pytest.raises(ValueError, match=r"differ in the target of 2 \(4, 5\)"):
        compare_attacks(a, attacks(found(4), found(5)))
    with pytest.raises(ValueError, match="A holds attack records and B certificate records"):
        compare_attacks(a, certificates(certificate(4)))
    with pytest.raises(ValueError, match="A holds attack records and B certificate records"):
        compare_certificates(a, certificates(certificate(4)), radii=[0])


@pytest.mark.parametrize("options", [{"confidence": 1}, {"confidence": 0}, {"resamples": 0}, {"seed": -1}], ids=repr)
def test_settings_of_the_bootstrap_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Bootstrap(**options)


def test_certificates_are_paired_with_radius_0_for_wrong_answers():
    a = certificates(*(certificate(i, r) for i, r in enumerate([0.2, 0.5, 0.9])), certificate(3, 0.8, predict=4))
    b = certificates(certificate(3, 0.4), certificate(0, 0.0, predict=-1), certificate(1, 0.6), certificate(2, 0.7))
    told = compare_certificates(a, b, radii=[0, 0.5, 0.75], resampling=FAST)
    cells = [tuple(rate[key] for key in ("both", "only_a", "only_b", "neither")) for rate in told["certified_accuracy"]]
    assert cells == [(2, 1, 1, 0), (2, 0, 0, 2), (0, 1, 0, 3)]
    assert [rate["difference"] for rate in told["certified_accuracy"]] == [0, 0, -0.25]
    assert [rate["p_value"] for rate in told["certified_accuracy"]] == [1, 1, 1]
    radius = told["certified_radius"]  # 0.2 0.5 0.9 0 and 0 0.6 0.7 0.4
    assert (radius["n"], radius["a"]) == (4, {"mean": pytest.approx(0.4), "median": pytest.approx(0.35)})
    assert radius["difference"] == pytest.approx(0.025)
    assert comparison_frame(told, ("a", "b"))[""].tolist() == ["CA(0) %", "CA(0.5) %", "CA(0.75) %", "certified radius"]


def test_in_large_samples_the_interval_is_the_normal_one():
    rng = np.random.default_rng(0)
    a, b = (attacks(*(found(i, int(q)) for i, q in enumerate(rng.integers(1, 999, 1000)))) for _ in "ab")
    told = compare_attacks(a, b)["queries"]
    error = stats.sem(b["queries"] - a["queries"])
    assert told["low"] == pytest.approx(told["difference"] - 1.96 * error, abs=0.1 * error)
    assert told["high"] == pytest.approx(told["difference"] + 1.96 * error, abs=0.1 * error)
