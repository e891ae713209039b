"""Files of ranks and shards become one table, or are refused."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.records.examples import certificate, found, header, lost
from zeroth.records import (
    RecordFile,
    RecordMismatch,
    done_keys,
    find_records,
    header_path,
    merge_records,
    read_records,
    record_path,
)


def write(path, records, told=None):
    with RecordFile(path, told or header("attack" if path.suffix == ".jsonl" else "certificate")) as file:
        for record in records:
            file.append(record)
    return path


def test_each_writer_has_its_own_name(tmp_path):
    names = [
        record_path(tmp_path, "attack"),
        record_path(tmp_path, "attack", rank=1),
        record_path(tmp_path, "attack", shard=(2, 4)),
        record_path(tmp_path, "certificate", rank=3, shard=(1, 2)),
    ]
    assert [path.name for path in names] == [
        "attack.jsonl",
        "attack.rank1.jsonl",
        "attack.shard2of4.jsonl",
        "certificate.shard1of2.rank3.tsv",
    ]
    assert header_path(names[3]).name == "certificate.shard1of2.rank3.header.json"
    for name in ("attack.old.jsonl", "attacks.jsonl", "attack.jsonl.bak", "my-attack.jsonl"):
        (tmp_path / name).touch()
    for path in names:
        write(path, [])
    names[3:3] = [record_path(tmp_path, "attack", shard=(2, 4), rank=n) for n in (2, 10)]
    for path in names[3:5]:
        write(path, [])
    assert find_records(tmp_path, "attack") == names[:5]
    assert find_records(tmp_path, "certificate") == names[5:]


@given(order=st.permutations(range(12)), homes=st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_merged_parts_equal_the_whole(tmp_path_factory, order, homes):
    folder = tmp_path_factory.mktemp("run")
    rows = [found(i, i + 1) if i % 3 else lost(i) for i in range(12)]
    homes_of = [(0, None), (1, None), (0, (1, 2)), (1, (2, 2))]
    for number, (rank, shard) in enumerate(homes_of):
        write(record_path(folder, "attack", rank=rank, shard=shard), [rows[i] for i in order if homes[i] == number])
    whole = write(folder / "whole" / "attack.jsonl", rows)
    pd.testing.assert_frame_equal(merge_records(folder), read_records(whole)[1])
    pd.testing.assert_frame_equal(merge_records(find_records(folder, "attack")[::-1]), read_records(whole)[1])
    assert done_keys(folder, header()) == set(range(12))


def test_columns_keep_their_types(tmp_path):
    attacks = merge_records(write(tmp_path / "attack.jsonl", [found(1, target=7, l2=0.1), lost(0, target=2)]))
    assert attacks["index"].tolist() == [0, 1]
    assert attacks["target"].tolist() == [2, 7]
    assert attacks["l0"].isna().tolist() == [True, False]
    assert attacks["l2"].fillna(-1).tolist() == [-1, 0.1]
    assert (attacks["success"].dtype, attacks["queries"].dtype) == (bool, "int64")
    assert attacks["fail_reason"].tolist() == ["budget", ""]
    certificates = merge_records(write(tmp_path / "certificate.tsv", [certificate(2, 0.375, time=61.5)]))
    assert certificates.loc[0].tolist() == [2, 3, 3, 0.375, True, 61.5]
    assert merge_records(write(tmp_path / "empty" / "attack.jsonl", [])).dtypes.equals(attacks.dtypes)


def test_equal_rows_for_an_image_are_one_and_the_first_is_kept(tmp_path):
    one = write(record_path(tmp_path, "attack"), [found(1, l2=0.5, seconds=1), found(2)])
    write(record_path(tmp_path, "attack", rank=1), [found(1, l2=0.5 * (1 + 1e-7), seconds=9), found(0)])
    merged = merge_records(tmp_path)
    assert merged["index"].tolist() == [0, 1, 2]
    assert merged["seconds"].tolist() == [1, 1, 1]
    lines = one.read_text().splitlines()  # by another program: RecordFile writes no second row
    one.write_text("\n".join([*lines, lines[2].replace('"queries": 10,', '"queries": 11,')]) + "\n")
    assert read_records(one)[1]["queries"].tolist() == [10, 10]


@pytest.mark.parametrize(
    ("kind", "first", "second", "told"),
    [
        ("attack", found(4, 10, spent=20), found(4, 11, spent=20), "queries_to_success is 10 and 11"),
        ("attack", found(4, l2=0.5), found(4, l2=0.51), "l1 is 2.0 and 2.04"),
        ("attack", lost(4), found(4), "predicted is 0 and 1"),
        ("certificate", certificate(4, 0.5), certificate(4, 0.25), "radius is 0.5 and 0.25"),
    ],
)
def test_rows_that_disagree_are_refused(tmp_path, kind, first, second, told):
    one = write(record_path(tmp_path, kind), [first])
    two = write(record_path(tmp_path, kind, rank=1), [second])
    with pytest.raises(RecordMismatch) as caught:
        merge_records(tmp_path)
    assert str(caught.value) == (
        f"{one} and {two} disagree on image 4: {told}\nOne is of another run: delete it and run its images again."
    )


def test_files_of_different_runs_are_not_merged(tmp_path):
    write(record_path(tmp_path, "attack"), [found(0)])
    write(record_path(tmp_path, "attack", rank=1), [found(1)], header(seed=5))
    with pytest.raises(RecordMismatch) as caught:
        merge_records(tmp_path)
    assert str(caught.value).splitlines()[-2:] == ["  seed: 0 and 5", "Merge each run by itself."]
    with pytest.raises(RecordMismatch, match=r"attack.rank1.jsonl holds rows of another run"):
        done_keys(tmp_path, header())


def test_a_rank_that_was_killed_leaves_its_whole_rows(tmp_path):
    write(record_path(tmp_path, "attack"), [found(0)])
    torn = write(record_path(tmp_path, "attack", rank=1), [found(1), found(3)])
    torn.write_bytes(torn.read_bytes()[:-5])
    before = torn.read_bytes()
    record_path(tmp_path, "attack", rank=2).touch()  # killed before its header
    with pytest.warns(UserWarning, match=r"attack.rank1.jsonl: the last line is torn and left out"):
        assert merge_records(tmp_path)["index"].tolist() == [0, 1]
    assert done_keys(tmp_path, header()) == {0, 1}
    assert torn.read_bytes() == before  # only its own writer mends a file


def test_nothing_to_merge_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no attack or certificate records in"):
        merge_records(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no record file .*attack.jsonl"):
        read_records(tmp_path / "attack.jsonl")
    (tmp_path / "attack.jsonl").touch()
    with pytest.raises(FileNotFoundError, match="the run ended before it wrote any"):
        merge_records(tmp_path)
    with pytest.raises(ValueError, match="holds no rows"):
        read_records(tmp_path / "attack.jsonl")
    with pytest.raises(ValueError, match=r"attacks end in .jsonl, certificates in .tsv"):
        read_records(__file__)
    write(tmp_path / "certificate.tsv", [certificate(0)])
    with pytest.raises(ValueError, match="records of both kinds: give kind"):
        merge_records(tmp_path)
    assert len(merge_records(tmp_path, "certificate")) == 1
