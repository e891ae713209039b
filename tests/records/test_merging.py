"""One file of what many writers wrote."""

import pytest

from tests.records.examples import certificate, found, header, lost
from zeroth.records import (
    RecordFile,
    RecordMismatch,
    header_path,
    merge_records,
    read_records,
    record_path,
    write_merged,
)

ATTACK = [lost(7, 5), found(3, 10, seconds=0.1), found(12, 30), lost(1, 100, "a b\u2028c")]
# 0.3 is printed 0.299999, whose float again is below it: read and floored once more it would be 0.299998.
CERTIFICATES = [certificate(4, 0.3), certificate(0, 0.7), certificate(2, 0.0, predict=-1, time=61.25)]


def write(folder, kind, rows, *, parts, **changes):
    for number in range(parts):
        with RecordFile(record_path(folder, kind, shard=(number + 1, parts)), header(kind, **changes)) as file:
            for row in rows[number::parts]:
                file.append(row)
    return folder


@pytest.mark.parametrize(("kind", "rows"), [("attack", ATTACK), ("certificate", CERTIFICATES)])
def test_the_file_is_the_same_however_many_wrote_it(tmp_path, kind, rows):
    texts = []
    for parts in (1, 2, 3):
        path = tmp_path / f"out{parts}" / f"stage.0{'.jsonl' if kind == 'attack' else '.tsv'}"
        told = write_merged(write(tmp_path / str(parts), kind, rows, parts=parts), path)
        assert told == header(kind) == read_records(path)[0]
        texts.append(path.read_bytes())
        assert merge_records(path).equals(merge_records(tmp_path / str(parts)))
    assert texts[0] == texts[1] == texts[2]
    key = "idx" if kind == "certificate" else "index"
    assert read_records(path)[1][key].tolist() == sorted(getattr(row, key) for row in rows)
    assert header_path(path).exists() == (kind == "certificate")


def test_no_radius_loses_a_digit_on_the_way(tmp_path):
    write_merged(write(tmp_path / "run", "certificate", CERTIFICATES, parts=2), tmp_path / "out.tsv")
    write_merged(tmp_path / "out.tsv", tmp_path / "again.tsv")
    cells = [line.split("\t")[3] for line in (tmp_path / "again.tsv").read_text().splitlines()[1:]]
    assert cells == ["0.699999", "0.000000", "0.299999"]


def test_an_earlier_file_is_replaced_and_a_torn_row_left_out(tmp_path):
    folder = write(tmp_path / "run", "attack", ATTACK, parts=1)
    file = record_path(folder, "attack", shard=(1, 1))
    file.write_bytes(file.read_bytes()[:-9])
    (tmp_path / "out.jsonl").write_text("anything\n")
    with pytest.warns(UserWarning, match="torn"):
        write_merged(folder, tmp_path / "out.jsonl")
    assert read_records(tmp_path / "out.jsonl")[1]["index"].tolist() == [3, 7, 12]


def test_what_does_not_belong_together_is_refused_and_nothing_written(tmp_path):
    write(tmp_path / "run", "attack", ATTACK[:2], parts=1)
    write(tmp_path / "other", "attack", ATTACK[2:], parts=1, seed=1)
    files = [record_path(tmp_path / name, "attack", shard=(1, 1)) for name in ("run", "other")]
    with pytest.raises(RecordMismatch, match="seed: 0 and 1"):
        write_merged(files, tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match="cannot hold attack records"):
        write_merged(files[:1], tmp_path / "out.tsv")
    with pytest.raises(FileNotFoundError, match="no attack or certificate records"):
        write_merged(tmp_path / "nothing", tmp_path / "out.jsonl")
    assert list(tmp_path.glob("out*")) == []
