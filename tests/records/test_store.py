"""Files that outlive kills, full disks and users who change their settings."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from tests.records.examples import certificate, found, header, lost
from zeroth.records import RecordFile, RecordMismatch, header_path, read_records

KINDS = [("attack", "attack.jsonl", found), ("certificate", "certificate.tsv", certificate)]
EACH_KIND = pytest.mark.parametrize(("kind", "name", "make"), KINDS, ids=["attack", "certificate"])


def write(path, kind, records):
    with RecordFile(path, header(kind)) as file:
        return [file.append(record) for record in records]


@EACH_KIND
def test_rows_are_on_disk_as_soon_as_they_are_appended(tmp_path, kind, name, make):
    path = tmp_path / "new" / name
    file = RecordFile(path, header(kind))
    for number in range(3):
        file.append(make(number))
        assert len(path.read_bytes().splitlines()) == number + 2
    told, frame = read_records(path)
    assert told == header(kind)
    assert len(frame) == len(file) == 3
    file.close()


def test_the_first_line_of_an_attack_file_is_its_header(tmp_path):
    write(tmp_path / "attack.jsonl", "attack", [found(5)])
    first, second = (tmp_path / "attack.jsonl").read_text().splitlines()
    assert json.loads(first) == header().to_dict()
    assert json.loads(second)["index"] == 5


def test_cohens_own_reader_reads_the_certificates(tmp_path):
    path = tmp_path / "certificate.tsv"
    write(path, "certificate", [certificate(0, 0.5), certificate(20, 0.25, predict=4), certificate(40, 0, predict=-1)])
    frame = pd.read_csv(path, delimiter="\t")
    assert list(frame.columns) == ["idx", "label", "predict", "radius", "correct", "time"]
    assert frame["idx"].tolist() == [0, 20, 40]
    # as his analysis does it: the accuracy at a radius, radii at r included
    assert [(frame["correct"] & (frame["radius"] >= r)).mean() for r in (0, 0.5, 0.500001)] == [1 / 3, 1 / 3, 0]
    assert pd.to_timedelta(frame["time"]).dt.total_seconds().tolist() == [1.0, 1.0, 1.0]


def test_no_radius_grows_on_the_way_through_cohens_reader(tmp_path):
    path, radii = tmp_path / "certificate.tsv", np.random.default_rng(0).uniform(0, 4, 2000)
    write(path, "certificate", [certificate(i, radius) for i, radius in enumerate(radii)])
    read = pd.read_csv(path, delimiter="\t")["radius"].to_numpy()
    assert (read <= radii).all()
    assert (read > radii - 1.001e-6).all()


@EACH_KIND
def test_a_file_is_continued_and_an_image_has_one_row(tmp_path, kind, name, make):
    path = tmp_path / name
    assert write(path, kind, [make(3), make(1), make(3)]) == [True, True, False]
    with RecordFile(path, header(kind)) as file:
        assert file.done == {1, 3}
        assert file.append(make(1)) is False
        assert file.append(make(2)) is True
        assert file.done == {1, 2, 3}
    assert read_records(path)[1].iloc[:, 0].tolist() == [3, 1, 2]


@EACH_KIND
@pytest.mark.parametrize("whole", [0, 1, 2])
def test_a_torn_last_line_is_dropped_wherever_it_is_torn(tmp_path, kind, name, make, whole):
    path = tmp_path / name
    write(path, kind, [make(number) for number in range(whole + 1)])
    full = path.read_bytes()
    kept = full[: full[:-1].rfind(b"\n") + 1]
    for length in range(len(kept) + 1, len(full)):  # all of the last row but its end, at least
        path.write_bytes(full[:length])
        with pytest.warns(UserWarning, match=f"{name}: the last line"):
            assert len(read_records(path)[1]) == whole
        with pytest.warns(UserWarning, match=f"{name}: the last line"), RecordFile(path, header(kind)) as file:
            assert file.done == set(range(whole))
            assert path.read_bytes() == kept
            file.append(make(whole))
        assert path.read_bytes() == full


@EACH_KIND
def test_a_file_torn_in_its_first_line_begins_anew(tmp_path, kind, name, make):
    path = tmp_path / name
    write(path, kind, [])
    first = path.read_bytes()
    for length in (0, 1, len(first) // 2, len(first) - 1):
        path.write_bytes(first[:length])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            RecordFile(path, header(kind)).close()
        assert len(caught) == (length > 0)
        assert path.read_bytes() == first


@EACH_KIND
def test_zeros_that_a_power_cut_left_are_a_torn_line(tmp_path, kind, name, make):
    path = tmp_path / name
    write(path, kind, [make(0)])
    whole = path.read_bytes()
    for rubbish in (b"\0" * 64, b"\0" * 64 + b"\n"):
        path.write_bytes(whole + rubbish)
        with pytest.warns(UserWarning, match="torn"), RecordFile(path, header(kind)) as file:
            assert file.done == {0}
        assert path.read_bytes() == whole


@EACH_KIND
def test_damage_before_the_last_line_is_named_and_left_alone(tmp_path, kind, name, make):
    path = tmp_path / name
    write(path, kind, [make(0), make(1)])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-9], lines[2]]) + "\n")
    before = path.read_bytes()
    for reader in (read_records, lambda p: RecordFile(p, header(kind))):
        with pytest.raises(ValueError, match=f"{name}, line 2 is damaged"):
            reader(path)
    assert path.read_bytes() == before


@EACH_KIND
def test_another_runs_file_is_refused_with_the_fields_that_differ(tmp_path, kind, name, make):
    path = tmp_path / name
    write(path, kind, [make(0)])
    before = path.read_bytes()
    other = header(kind, seed=1, checkpoint_sha256=None, config={"attack": {"epsilon": 0.3, "q": 40}})
    with pytest.raises(RecordMismatch) as caught:
        RecordFile(path, other)
    assert str(caught.value).splitlines() == [
        f"{path} holds rows of another run, so nothing was written:",
        f"  checkpoint_sha256: '{'c' * 64}' in the file, None in this run",
        "  seed: 0 in the file, 1 in this run",
        "  config.attack.epsilon: 0.2 in the file, 0.3 in this run",
        "Choose another run name, or delete the file to start over.",
    ]
    assert path.read_bytes() == before


def test_another_schema_is_refused_by_writer_and_reader(tmp_path):
    path = tmp_path / "attack.jsonl"
    path.write_text(json.dumps(header(schema_version=2).to_dict()) + '\n{"later": true}\n')
    with pytest.raises(RecordMismatch, match="schema_version: 2 in the file, 1 in this run"):
        RecordFile(path, header())
    with pytest.raises(ValueError, match="schema_version 2, this version reads 1"):
        read_records(path)


def test_a_deleted_tsv_starts_over_under_new_settings(tmp_path):
    path = tmp_path / "certificate.tsv"
    write(path, "certificate", [certificate(0)])
    path.unlink()  # the remedy of the refusal: the sidecar stays behind
    RecordFile(path, header("certificate", seed=9)).close()
    assert read_records(path)[0].seed == 9


def test_foreign_files_are_left_alone(tmp_path):
    tsv, jsonl = tmp_path / "certificate.tsv", tmp_path / "attack.jsonl"
    write(tsv, "certificate", [certificate(0)])
    header_path(tsv).unlink()
    jsonl.write_text('{"my": "notes"}\n')
    torn = tmp_path / "torn.jsonl"
    torn.write_text("my notes")
    for path, kind in ((tsv, "certificate"), (jsonl, "attack"), (torn, "attack")):
        before = path.read_bytes()
        with pytest.raises(ValueError, match=r"is no record file of zeroth .* move the file away"):
            RecordFile(path, header(kind))
        assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"cannot hold attack records"):
        RecordFile(tsv, header("attack"))
    with RecordFile(tmp_path / "a.jsonl", header()) as file, pytest.raises(ValueError, match="holds attack records"):
        file.append(certificate(0))


@EACH_KIND
def test_a_full_disk_is_reported_and_costs_no_row(tmp_path, kind, name, make, monkeypatch):
    path = tmp_path / name
    file = RecordFile(path, header(kind))
    file.append(make(0))
    before, raw = path.read_bytes(), file._file

    class NearlyFull:
        """Takes seven bytes of a row, then no more."""

        def write(self, data):
            if len(path.read_bytes()) > len(before):
                raise OSError(28, os.strerror(28))
            return raw.write(data[:7])

        def fileno(self):
            return raw.fileno()

    monkeypatch.setattr(file, "_file", NearlyFull())
    with pytest.raises(OSError, match=r"No space left on device.*its 1 rows are safe") as caught:
        file.append(make(1))
    assert caught.value.errno == 28
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    monkeypatch.setattr(file, "_file", raw)  # space was made
    assert file.append(make(1)) is True
    file.close()
    assert read_records(path)[1].iloc[:, 0].tolist() == [0, 1]


def test_a_row_that_could_not_be_cut_off_at_once_is_cut_off_later(tmp_path, monkeypatch):
    path = tmp_path / "attack.jsonl"
    file = RecordFile(path, header())

    def refuse(*_):
        raise OSError(28, os.strerror(28))

    raw = file._file
    raw.write(b'{"index": 0, "lab')  # what a failed append may leave
    file._torn = True
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(OSError, match="its 0 rows are safe"):
            file.append(found(0))
    assert file.append(lost(0)) is True
    file.close()
    assert read_records(path)[1]["success"].tolist() == [False]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_the_device_that_is_always_full(tmp_path):
    file = RecordFile(tmp_path / "attack.jsonl", header())
    before = file.path.read_bytes()
    file._file.close()
    file._file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    with pytest.raises(OSError, match="No space left on device"):
        file.append(found(0))
    file.close()
    assert file.done == set()
    assert file.path.read_bytes() == before


LIMITED = """
import resource, signal, sys
from tests.records.examples import found, header
from zeroth.records import RecordFile

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit fails instead of ending the process
file = RecordFile(sys.argv[1], header())
file.append(found(0))
limit = file.path.stat().st_size + 20  # in the middle of the next row
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    file.append(found(1))
except OSError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
file.append(found(2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="file size limits as Linux has them")
def test_a_write_that_the_system_breaks_off_leaves_whole_rows(tmp_path):
    path = tmp_path / "attack.jsonl"
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."})
    assert f"{path} could not be written (File too large); its 1 rows are safe" in done.stdout
    assert read_records(path)[1]["index"].tolist() == [0, 2]
