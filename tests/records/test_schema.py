"""Rows that contradict themselves, radii on paper, and hashes that tell one run from another."""

import hashlib
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.records.examples import certificate, found, header, lost
from zeroth.records import (
    ABSTAIN,
    AttackRecord,
    CertificateRecord,
    RecordHeader,
    config_hash,
    file_sha256,
    flatten,
    floor_radius,
)
from zeroth.records.rows import format_row, parse_row
from zeroth.records.schema import COLUMNS

RADII = st.floats(min_value=0, max_value=1e4)


def test_the_columns_are_those_of_the_design():
    assert " ".join(COLUMNS["attack"]) == (
        "index label target predicted success queries queries_to_success l0 l1 l2 linf seconds fail_reason"
    )
    assert " ".join(COLUMNS["certificate"]) == "idx label predict radius correct time"


@given(RADII)
@example(0.9999999)  # "%.6f" says 1.000000
@example(0.1234565)
@example(0.29)  # 0.29 * 100 is 28.999999999999996 in floats
@example(np.nextafter(0.25, 0))
def test_no_radius_is_printed_above_its_value(radius):
    printed = Decimal(floor_radius(radius))
    assert Decimal(radius) - Decimal("0.000001") < printed <= Decimal(radius)
    assert parse_row("certificate", format_row(certificate(0, radius))).radius <= radius


def test_a_radius_of_few_decimals_is_printed_as_it_is():
    assert [floor_radius(r) for r in (0.0, 0.25, 0.5, 1.75, 12.0)] == [
        "0.000000",
        "0.250000",
        "0.500000",
        "1.750000",
        "12.000000",
    ]
    # The float 0.3 is a little less than 3/10.
    assert floor_radius(0.3) == "0.299999"


def test_a_certificate_is_written_in_cohens_format():
    assert format_row(certificate(7, 0.7539999, time=14.25)) == "7\t3\t3\t0.753999\t1\t0:00:14.250000"
    assert format_row(certificate(8, 0.0, predict=ABSTAIN, time=90061.5)) == "8\t3\t-1\t0.000000\t0\t25:01:01.500000"
    assert format_row(certificate(9, time=59.9999999)).endswith("\t0:00:59.999999")


@given(st.floats(min_value=0, max_value=1e6))
def test_times_come_back_to_the_microsecond(time):
    assert parse_row("certificate", format_row(certificate(0, time=time))).time == pytest.approx(time, abs=2e-6)


@given(
    st.integers(0, 10**9),
    st.integers(1, 10**6),
    st.floats(min_value=0, max_value=1e6, allow_nan=False),
    st.text(min_size=1),
    st.none() | st.integers(0, 999),
)
def test_attack_rows_come_back_as_they_were(index, queries, distance, reason, target):
    for record in (found(index, queries, l2=distance, target=target), lost(index, queries, reason, target=target)):
        line = format_row(record)
        assert "\n" not in line
        assert parse_row("attack", line) == record


def test_numpy_values_become_plain_ones_and_a_failure_has_no_distance():
    record = AttackRecord(
        index=np.int64(4),
        label=np.int32(1),
        target=None,
        predicted=np.int64(1),
        success=np.bool_(False),
        queries=np.int64(9),
        queries_to_success=np.int64(-1),
        l0=np.int64(0),
        l1=np.float32(0),
        l2=float("inf"),
        linf=0.0,
        seconds=np.float32(0.5),
        fail_reason="budget",
    )
    assert json.loads(format_row(record)) == {
        "index": 4, "label": 1, "target": None, "predicted": 1, "success": False, "queries": 9,
        "queries_to_success": -1, "l0": None, "l1": None, "l2": None, "linf": None, "seconds": 0.5,
        "fail_reason": "budget",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("index", {"index": 0.5}),
        ("queries_to_success", {"queries_to_success": 11}),
        ("queries_to_success", {"queries_to_success": 0}),
        ("queries_to_success", {"success": False, "fail_reason": "budget"}),
        ("l2", {"l2": float("inf")}),
        ("l1", {"l1": None}),
        ("linf", {"linf": float("nan")}),
        ("seconds", {"seconds": float("nan")}),
        ("fail_reason", {"fail_reason": "budget"}),
    ],
)
def test_an_attack_row_that_contradicts_itself_is_refused(field, change):
    values = {name: getattr(found(3), name) for name in COLUMNS["attack"]}
    with pytest.raises(ValueError, match=rf"^{field}\b"):
        AttackRecord(**{**values, **change})


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("radius", {"radius": -0.1}),
        ("radius", {"radius": float("nan")}),
        ("radius", {"radius": float("inf")}),
        ("radius", {"predict": -1, "correct": False}),
        ("correct", {"correct": False}),
        ("correct", {"predict": 4}),
        ("correct", {"predict": -1, "label": -1, "radius": 0}),
        ("time", {"time": -1}),
    ],
)
def test_a_certificate_that_contradicts_itself_is_refused(field, change):
    values = {name: getattr(certificate(3), name) for name in COLUMNS["certificate"]}
    with pytest.raises(ValueError, match=rf"^{field}\b"):
        CertificateRecord(**{**values, **change})


def test_the_hash_is_that_of_canonical_json():
    assert config_hash({"b": 1.0, "a": [True, None]}) == hashlib.sha256(b'{"a":[true,null],"b":1}').hexdigest()
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2.0, "a": 1})
    assert config_hash({"a": (1, 2), "p": Path("x")}) == config_hash({"a": [1, 2], "p": "x"})
    values = [0.2, 0.3, None, float("inf"), "0.2", True, 1, [0.2], {"a": 1}]
    assert len({config_hash({"epsilon": value}) for value in values}) == len(values)
    with pytest.raises(ValueError, match="object"):
        config_hash({"a": object()})


def test_a_files_hash_is_that_of_its_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_header_equals_its_copy_on_disk_and_names_what_differs():
    config = {"attack": {"epsilon": 0.2, "box": (0, 1), "ord": float("inf")}, "data": {}, "to": Path("x")}
    mine = header(config=config)
    assert mine.config == {"attack.epsilon": 0.2, "attack.box": [0, 1], "attack.ord": "inf", "data": {}, "to": "x"}
    copy = RecordHeader.from_dict(json.loads(json.dumps(mine.to_dict())))
    assert copy == mine
    assert mine.differences(copy) == {}
    assert list(mine.to_dict()) == ["schema_version", "kind", "config_hash", "checkpoint_sha256", "seed", "config"]
    other = header(config={"attack": {"epsilon": 0.3, "box": (0, 1)}, "data": {}, "to": "x"}, seed=1)
    assert mine.differences(other) == {
        "seed": ("0", "1"),
        "config.attack.epsilon": ("0.2", "0.3"),
        "config.attack.ord": ("'inf'", "absent"),
    }
    assert list(header().differences(header(config_hash="f" * 64))) == ["config_hash"]


@pytest.mark.parametrize("values", [[1], {"kind": "attack"}, {**header().to_dict(), "kind": "poem"}])
def test_what_is_no_header_is_refused(values):
    with pytest.raises(ValueError, match=r"JSON object|lacks|kind must be"):
        RecordHeader.from_dict(values)


def test_nested_settings_are_flattened():
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [1]}) == {"a.b.c": 1, "a.d": {}, "e": [1]}


def test_the_records_do_not_load_torch_or_a_logger():
    code = "import sys, zeroth.records, zeroth.records.plots, zeroth.records.pictures; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "wandb", "pytorch_lightning", "matplotlib.pyplot"} & set(loaded)
