"""Numbers of the report, against hand-made tables and closed forms."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm, t

from tests.records.examples import certificate, found, lost
from zeroth.records import (
    attack_summary,
    certificate_summary,
    certified_accuracy,
    distortion_quartiles,
    merge_records,
    robust_accuracy_vs_epsilon,
    success_curve,
)
from zeroth.records.json_io import replacing, write_json
from zeroth.records.rows import to_frame

Z = norm.ppf(0.975)


def wilson(k, n):
    """Wilson 1927: the p for which (k/n - p)^2 = z^2 p (1 - p) / n."""
    centre, half = (k + Z**2 / 2) / (n + Z**2), Z / (n + Z**2) * math.sqrt(k * (n - k) / n + Z**2 / 4)
    return pytest.approx({"value": k / n, "low": centre - half, "high": centre + half})


# 10 images: 2 wrong from the start, 1 never asked, 4 found, 3 not found.
ATTACKS = to_frame(
    "attack",
    [
        lost(0, 1, "misclassified", predicted=5),
        lost(1, 1, "misclassified", predicted=5),
        lost(2, 0, "total_budget", predicted=-1),
        found(3, 10, l2=0.1),
        found(4, 20, l2=0.2),
        found(5, 30, spent=90, l2=0.4),
        found(6, 100, l2=0.9),
        lost(7, 100),
        lost(8, 100),
        lost(9, 80, "step size too small"),
    ],
)


def test_attack_summary_of_a_hand_made_table():
    told = attack_summary(ATTACKS)
    assert (told["n"], told["n_not_asked"], told["n_attacked"], told["n_success"]) == (10, 1, 7, 4)
    assert told["clean_accuracy"] == wilson(7, 9)
    assert told["success_rate"] == wilson(4, 7)
    assert told["robust_accuracy"] == wilson(3, 9)
    spent = [10, 20, 90, 100, 100, 100, 80]
    half = t.ppf(0.975, 6) * np.std(spent, ddof=1) / math.sqrt(7)
    mean = 500 / 7
    assert told["queries"] == pytest.approx({"mean": mean, "median": 90, "low": mean - half, "high": mean + half})
    assert (told["queries_to_success"]["mean"], told["queries_to_success"]["median"]) == (40, 25)
    assert told["l2"] == pytest.approx({"mean": 0.4, "median": 0.3})
    assert told["l0"] == {"mean": 12, "median": 12}
    assert told["reasons"] == {"budget": 2, "misclassified": 2, "step size too small": 1, "total_budget": 1}


def test_the_interval_of_a_mean_does_not_fall_below_one_query():
    told = attack_summary(to_frame("attack", [found(0, 10), found(1, 30)]))["queries_to_success"]
    half = t.ppf(0.975, 1) * 10  # sd / sqrt(2) = 10
    assert told == pytest.approx({"mean": 20, "median": 20, "low": 1, "high": 20 + half})


def test_a_targeted_run_tells_no_clean_accuracy():
    rows = [
        lost(0, 1, "already_target", predicted=2, target=2),
        found(1, predicted=2, target=2),
        lost(2, target=2),
        lost(3, target=2, predicted=4),  # wrong from the start, attacked nevertheless
    ]
    told = attack_summary(to_frame("attack", rows))
    assert told["clean_accuracy"] is None
    assert told["success_rate"] == wilson(1, 3)
    assert told["robust_accuracy"] == wilson(1, 4)


def test_an_empty_table_has_no_values_and_one_row_no_interval():
    told = attack_summary(ATTACKS.iloc[:0])
    assert told["success_rate"] == {"value": None, "low": None, "high": None}
    assert told["queries"] == {"mean": None, "median": None, "low": None, "high": None}
    assert attack_summary(ATTACKS.iloc[3:4])["queries"] == {"mean": 10, "median": 10, "low": None, "high": None}
    assert success_curve(ATTACKS.iloc[:3], [5]) == [None]
    empty = certificate_summary(to_frame("certificate", []), [0.5])
    assert (empty["acr"], empty["certified_accuracy"]["accuracy"]) == (None, [None])


def test_success_curve_counts_attacked_images_and_includes_the_mark():
    assert success_curve(ATTACKS, [0, 9, 10, 29, 30, 100, 10**6]) == [n / 7 for n in (0, 0, 1, 2, 3, 4, 4)]


def test_robust_accuracy_by_size_of_perturbation():
    curve = robust_accuracy_vs_epsilon(ATTACKS, "l2", [0, 0.0999, 0.1, 0.3, 0.4, 5])
    assert curve["epsilon"] == [0, 0.0999, 0.1, 0.3, 0.4, 5]
    assert curve["accuracy"] == [n / 9 for n in (7, 7, 6, 5, 4, 3)]
    assert {"value": curve["accuracy"][4], "low": curve["low"][4], "high": curve["high"][4]} == wilson(4, 9)
    assert robust_accuracy_vs_epsilon(ATTACKS, "l0", [11, 12])["accuracy"] == [7 / 9, 3 / 9]
    # float32 says 0.2 a little larger than the ball it lies in
    inside = to_frame("attack", [found(0, l2=float(np.float32(0.2)))])
    assert inside["l2"].item() > 0.2
    assert robust_accuracy_vs_epsilon(inside, "l2", [0.19999, 0.2])["accuracy"] == [1, 0]


CERTIFICATES = to_frame(
    "certificate",
    [
        certificate(0, 0.5),
        certificate(1, 0.25),
        certificate(2, 0.75),
        certificate(3, 0.9, predict=4),
        certificate(4, 0, predict=-1),
        certificate(5, 0.0),
        certificate(6, 0, predict=-1),
        certificate(7, 0.1, predict=5),
    ],
)


def test_certified_accuracy_of_a_hand_made_table():
    radii = [0, 0.25, 0.2500001, 0.5, 0.6, 0.75, 0.8]
    curve = certified_accuracy(CERTIFICATES, radii)
    assert curve["radius"] == radii
    assert curve["accuracy"] == [n / 8 for n in (4, 3, 2, 2, 1, 1, 0)]  # a radius exactly at r counts
    told = certificate_summary(CERTIFICATES, radii)
    assert told["accuracy"]["value"] == 0.5
    assert told["abstention_rate"]["value"] == 0.25  # and both are wrong, also at radius 0
    assert told["acr"] == pytest.approx((0.5 + 0.25 + 0.75) / 8)
    assert told["certified_accuracy"] == curve


def test_an_abstention_is_wrong_whatever_a_foreign_file_says():
    foreign = pd.DataFrame({"predict": [-1, 1], "radius": [0.5, 0.5], "correct": [1, 1]})
    assert certified_accuracy(foreign, [0, 0.5])["accuracy"] == [0.5, 0.5]
    assert certificate_summary(foreign, [0])["acr"] == 0.25


@pytest.mark.parametrize("right", [0, 1, 37, 99, 100])
def test_clopper_pearson_ends_are_where_the_binomial_tail_is_half_of_alpha(right):
    rows = [certificate(i, 0.5, predict=3 if i < right else 4) for i in range(100)]
    curve = certified_accuracy(to_frame("certificate", rows), [0.5], confidence=0.9)
    (low,), (high,) = curve["low"], curve["high"]
    assert low == 0 if right == 0 else binom.sf(right - 1, 100, low) == pytest.approx(0.05)
    assert high == 1 if right == 100 else binom.cdf(right, 100, high) == pytest.approx(0.05)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.25, 0.5, 0.7501])), min_size=1, max_size=30))
def test_certified_accuracy_is_the_mean_of_its_definition(rows):
    frame = to_frame("certificate", [certificate(i, r, predict=3 if ok else 4) for i, (ok, r) in enumerate(rows)])
    radii = [0.0, 0.25, 0.5, 0.75, 1.0]
    curve = certified_accuracy(frame, radii)
    assert curve["accuracy"] == [sum(ok and radius >= r for ok, radius in rows) / len(rows) for r in radii]
    assert all(0 <= a <= v <= b <= 1 for v, a, b in zip(*(curve[k] for k in ("accuracy", "low", "high")), strict=True))


def test_a_report_is_strict_json_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.json"
    write_json(path, {**attack_summary(ATTACKS), "nan": math.nan, "inf": [np.float32("inf")], "array": np.arange(2)})

    def refuse(word):
        raise AssertionError(word)

    told = json.loads(path.read_text(), parse_constant=refuse)
    assert (told["n"], told["nan"], told["inf"], told["array"]) == (10, None, [None], [0, 1])
    assert told["queries"] == attack_summary(ATTACKS)["queries"]
    before = path.read_text()
    with pytest.raises(ValueError, match="object"):
        write_json(path, {"n": object()})
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            write_json(path, {"n": 11})
    assert path.read_text() == before
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    with replacing(path) as part:
        part.write_text("one")
        assert not path.exists() and part.parent == path.parent
    with pytest.raises(RuntimeError, match="half"), replacing(path) as part:
        part.write_text("tw")
        raise RuntimeError("half")
    assert path.read_text() == "one" and list(path.parent.iterdir()) == [path]


def test_quartiles_of_distances_are_infinite_where_an_image_without_one_takes_part():
    inf = np.inf
    found = distortion_quartiles([[inf, inf, inf, inf, 4], [inf, 1, 2, 3, 4], [5, 1, 2, 3, 4]])
    # Of five images the quartiles are the second, third and fourth: nothing is interpolated.
    assert found.tolist() == [[inf, 2, 2], [inf, 3, 3], [inf, 4, 4]]
    assert distortion_quartiles([[1, 2, 3, inf]]).tolist() == [[1.75], [2.5], [inf]]


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_confidence_is_a_share(confidence):
    with pytest.raises(ValueError, match=f"confidence must lie strictly between 0 and 1.*got {confidence}"):
        attack_summary(ATTACKS, confidence=confidence)
    with pytest.raises(ValueError, match="confidence"):
        certified_accuracy(CERTIFICATES, [0], confidence=confidence)


def test_summaries_read_what_the_store_writes(tmp_path):
    from tests.records.examples import header
    from zeroth.records import RecordFile

    with RecordFile(tmp_path / "certificate.tsv", header("certificate")) as file:
        for row in CERTIFICATES.itertuples(index=False):
            file.append(certificate(row.idx, row.radius, predict=row.predict))
    merged = merge_records(tmp_path)
    assert certificate_summary(merged, [0.5]) == certificate_summary(CERTIFICATES, [0.5])
    cohen = pd.read_csv(tmp_path / "certificate.tsv", delimiter="\t")
    assert certificate_summary(cohen, [0.5]) == certificate_summary(CERTIFICATES, [0.5])
