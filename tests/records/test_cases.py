"""Best, average and worst case over target classes against a slow reading of them; runs of pairs on disk."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.records.examples import attacks, found, header, lost
from zeroth.records import (
    CASES,
    RecordFile,
    RecordMismatch,
    attack_summary,
    compare_attacks,
    done_keys,
    merge_records,
    random_target,
    record_path,
    select_case,
    write_json,
    write_merged,
)
from zeroth.records.__main__ import main, runs_frame

ALL = {"attack": {"epsilon": 0.2}, "targeted": "all"}
KINDS = st.sampled_from([0.1, 0.2, 0.3, "budget", "already_target", "total_budget"])


def row(index, label, target, kind, predicted=None):
    """A pair by what came of it: won at a distance, or lost for a reason."""
    if isinstance(kind, float):
        return found(index, label=label, target=target, predicted=target, l2=kind)
    predicted = {"already_target": target, "total_budget": -1}.get(kind, label)
    queries = {"already_target": 1, "total_budget": 0}.get(kind, 100)
    return lost(index, queries, kind, label=label, target=target, predicted=predicted)


def image(index, label, kinds):
    """The rows of one image, one a wrong class."""
    wrong = [k for k in range(len(kinds) + 1) if k != label]
    return [row(index, label, target, kind) for target, kind in zip(wrong, kinds, strict=True)]


def slow_case(rows, case, seed):
    """The row that stands for one image, by its definition."""
    classes = len(rows) + 1
    if case == "average":
        step = np.random.default_rng([seed, rows[0].index]).integers(1, classes)
        return next(r for r in rows if r.target == (rows[0].label + step) % classes)
    for r in rows:
        if r.predicted == -1:
            return r
    played = [r for r in rows if r.fail_reason != "already_target"] or rows
    won, failed = [r for r in played if r.success], [r for r in played if not r.success]
    nearest = min(won, key=lambda r: r.l2) if won else failed[0]
    farthest = failed[0] if failed else max(won, key=lambda r: r.l2)
    return nearest if case == "best" else farthest


@settings(max_examples=60)
@given(st.data(), st.integers(2, 5), st.integers(0, 9), st.integers(0, 3))
def test_a_case_is_its_definition(data, classes, seed, missing):
    images = [
        image(index, data.draw(st.integers(0, classes - 1)), data.draw(st.tuples(*[KINDS] * (classes - 1))))
        for index in (3, 8, 5)
    ]
    rows = [r for one in images for r in one]
    unfinished = image(9, 0, [0.1] * (classes - 1))[: min(missing, classes - 2)]
    table = attacks(*data.draw(st.permutations(rows + unfinished)))
    for case in CASES:
        expected = attacks(*(slow_case(one, case, seed) for one in sorted(images, key=lambda one: one[0].index)))
        pd.testing.assert_frame_equal(select_case(table, case, norm="l2", seed=seed), expected)


def test_an_image_is_won_in_the_worst_case_only_if_all_its_pairs_are():
    table = attacks(*image(0, 0, [0.3, 0.1]), *image(1, 2, [0.2, "budget"]), *image(2, 1, ["budget", "budget"]))
    told = {case: attack_summary(select_case(table, case, norm="l2", seed=0)) for case in ("best", "worst")}
    assert [told[case]["n_success"] for case in ("best", "worst")] == [2, 1]
    assert [told[case]["l2"]["mean"] for case in ("best", "worst")] == pytest.approx([0.15, 0.3])
    # The distance is the norm's that is asked for: of these two pairs each is the nearer by one norm.
    near, far = row(0, 0, 1, 0.1), row(0, 0, 2, 0.2)
    object.__setattr__(near, "l1", 9.0)
    for norm, target in (("l2", 1), ("l1", 2)):
        assert select_case(attacks(near, far), "best", norm=norm, seed=0)["target"].tolist() == [target]


def test_of_pairs_on_a_balls_surface_queries_tell_the_difficult():
    pairs = [
        found(0, queries, label=0, target=target, predicted=target, l2=0.4 - rounding)
        for target, rounding, queries in ((1, 0.0, 7), (2, 3e-8, 9), (3, 6e-8, 8), (4, 9e-8, 7))
    ]
    told = {case: select_case(attacks(*pairs), case, norm="l2", seed=0)["target"].item() for case in CASES}
    assert (told["best"], told["worst"]) == (1, 2)


def test_the_drawn_target_is_a_wrong_class_and_keeps_its_draw():
    drawn = [random_target(4, index, num_classes=10, seed=0) for index in range(300)]
    assert set(drawn) == set(range(10)) - {4}
    assert drawn[:8] == [(4 + int(np.random.default_rng([0, index]).integers(1, 10))) % 10 for index in range(8)]


@pytest.mark.parametrize(
    "rows",
    [[], [found(0), lost(1)], [found(0, label=3, target=1, predicted=1), lost(1, label=0, target=2)]],
    ids=["none", "untargeted", "one target"],
)
def test_rows_without_an_image_attacked_toward_all_are_refused(rows):
    with pytest.raises(
        ValueError, match=f"these {len(rows)} rows have none: take the rows of an attack with --targeted"
    ):
        select_case(attacks(*rows), "best", norm="l2", seed=0)


def test_an_unknown_case_is_refused():
    with pytest.raises(ValueError, match="case must be one of best, average, worst, got 'median'"):
        select_case(attacks(*image(0, 0, [0.1])), "median", norm="l2", seed=0)


def write(path, rows, **changes):
    with RecordFile(path, header(config=ALL, **changes)) as file:
        for one in rows:
            file.append(one)
    return path


def test_pairs_have_a_row_each_in_files_merged_by_index_and_target(tmp_path):
    rows = image(4, 0, [0.1, "budget", 0.2]) + image(1, 3, [0.3, 0.2, "budget"])
    files = [record_path(tmp_path / "run", "attack", shard=(k, 2)) for k in (1, 2)]
    write(files[0], rows[:3])
    write(files[1], rows[2:])  # one pair twice
    with RecordFile(files[0], header(config=ALL)) as file:
        assert file.done == {(4, 1), (4, 2), (4, 3)} and not file.append(rows[0])
    assert done_keys(tmp_path / "run", header(config=ALL)) == {(r.index, r.target) for r in rows}
    merged = merge_records(tmp_path / "run")
    assert list(zip(merged["index"], merged["target"], strict=True)) == [(1, 0), (1, 1), (1, 2), (4, 1), (4, 2), (4, 3)]
    whole = write(record_path(tmp_path / "whole", "attack"), sorted(rows, key=lambda r: (r.index, r.target)))
    write_merged(tmp_path / "run", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == whole.read_bytes()
    write(record_path(tmp_path / "run", "attack"), [row(4, 0, 1, 0.3)])
    with pytest.raises(RecordMismatch, match=r"disagree on image \(4, 1\): l1 is"):
        merge_records(tmp_path / "run")


def test_a_run_of_one_target_keeps_one_row_an_image(tmp_path):
    with RecordFile(tmp_path / "attack.jsonl", header(config={"targeted": "random"})) as file:
        assert file.append(row(0, 0, 1, 0.1)) and not file.append(row(0, 0, 2, 0.1))


def test_a_row_without_a_target_is_no_pair(tmp_path):
    with RecordFile(tmp_path / "attack.jsonl", header(config=ALL)) as file, pytest.raises(ValueError, match="image 7"):
        file.append(found(7))


def test_show_tells_a_case_and_refuses_it_of_a_run_without(tmp_path, capsys):
    folder = tmp_path / "attack" / "a"
    write(record_path(folder, "attack"), image(0, 0, [0.3, 0.1]) + image(1, 2, [0.2, "budget"]))
    write_json(folder / "report.json", {"norm": "l2"})
    assert runs_frame([folder])["attack\na"][0] == "4"
    shown = {case: runs_frame([folder], case).set_index("")[f"attack\na\n{case} case"] for case in CASES}
    assert [shown[case]["n"] for case in CASES] == ["2"] * 3
    assert [shown[case]["l2 median"] for case in ("best", "worst")] == ["0.15", "0.3"]
    assert main(["show", str(folder), "--case", "worst"]) == 0 and "50.0 [" in capsys.readouterr().out
    plain = tmp_path / "attack" / "b"
    with RecordFile(record_path(plain, "attack"), header()) as file:
        file.append(found(0))
    assert main(["show", str(plain), "--case", "best"]) == 2
    assert "b has no cases: --case is for attacks with --targeted all" in capsys.readouterr().err
    assert main(["compare", str(folder), str(plain)]) == 2
    assert "compare two runs with the same --targeted" in capsys.readouterr().err


def test_runs_of_pairs_are_compared_pair_by_pair(tmp_path, capsys):
    a, b = image(0, 0, [0.1, "budget"]) + image(1, 1, [0.1, 0.2]), image(0, 0, [0.3, 0.2]) + image(1, 1, [0.2, 0.1])
    told = compare_attacks(attacks(*a), attacks(*b[::-1]), norms=("l2",))
    assert (told["n"], told["n_attacked"]) == (4, 4)
    assert [told["success"][cell] for cell in ("both", "only_a", "only_b", "neither")] == [3, 0, 1, 0]
    assert told["distance"]["l2"]["difference"] == pytest.approx((0.2 + 0.1 - 0.1) / 3)
    with pytest.raises(ValueError, match=r"different images: 1 \(\(1, 2\)\) only in A"):
        compare_attacks(attacks(*a), attacks(*b[:3]))
    for name, rows in (("a", a), ("b", b)):
        write(record_path(tmp_path / name, "attack"), rows, seed=ord(name))
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "images are pairs with a target here" in " ".join(capsys.readouterr().out.split())
