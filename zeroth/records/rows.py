"""A row as text and back: JSONL for attacks, Cohen's TSV for certificates; and rows as a table."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from zeroth.records.schema import (
    COLUMNS,
    AttackRecord,
    CertificateRecord,
    Kind,
    Record,
    RecordHeader,
    floor_radius,
)

# What tells the rows of a run apart: the dataset index, or (index, target) where an image has a row a target.
Key = int | tuple[int, int]

SUFFIXES: dict[Kind, str] = {"attack": ".jsonl", "certificate": ".tsv"}
TSV_COLUMNS = "\t".join(COLUMNS["certificate"])
_DTYPES: dict[Kind, dict[str, str]] = {
    # Int64 with a capital holds missing values: target and l0 stay integers.
    "attack": {"target": "Int64", "success": "bool", "l0": "Int64", "l1": "float64", "l2": "float64", "linf": "float64"}
    | dict.fromkeys(("index", "label", "predicted", "queries", "queries_to_success"), "int64")
    | {"seconds": "float64", "fail_reason": "object"},
    "certificate": dict.fromkeys(("idx", "label", "predict"), "int64")
    | {"radius": "float64", "correct": "bool", "time": "float64"},
}


def kind_of(path: Path) -> Kind:
    """Tell the kind of record file by its ending; ValueError for another ending."""
    for kind, suffix in SUFFIXES.items():
        if path.suffix == suffix:
            return kind
    raise ValueError(f"{path} is no record file: attacks end in .jsonl, certificates in .tsv")


def format_row(record: Record) -> str:
    """One line without its end. The radius is floored; times are written as Cohen's code does, h:mm:ss.ffffff."""
    if isinstance(record, AttackRecord):
        return json.dumps(asdict(record), allow_nan=False)
    minutes, seconds = divmod(record.time, 60)
    hours, minutes = divmod(int(minutes), 60)
    # A rounding up to 60.000000 would be no time of day.
    clock = f"{hours}:{minutes:02d}:{min(seconds, 59.999999):09.6f}"
    cells = (record.idx, record.label, record.predict, floor_radius(record.radius), int(record.correct), clock)
    return "\t".join(map(str, cells))


def parse_row(kind: Kind, line: str) -> Record:
    """Read :func:`format_row` back; ValueError for anything else."""
    if kind == "attack":
        values: Any = json.loads(line)
        if not isinstance(values, dict) or list(values) != COLUMNS["attack"]:
            raise ValueError(f"expected an object with the keys {' '.join(COLUMNS['attack'])}")
        return AttackRecord(**values)
    cells = line.split("\t")
    if len(cells) != len(COLUMNS["certificate"]):
        raise ValueError(f"expected the {len(COLUMNS['certificate'])} cells {' '.join(COLUMNS['certificate'])}")
    idx, label, predict, radius, correct, clock = cells
    hours, minutes, seconds = clock.split(":")
    return CertificateRecord(
        idx=int(idx),
        label=int(label),
        predict=int(predict),
        radius=float(radius),
        correct=bool(int(correct)),
        time=3600 * int(hours) + 60 * int(minutes) + float(seconds),
    )


def key_of(record: Record, header: RecordHeader) -> Key:
    """Return what a row is known by in the run of a header."""
    if isinstance(record, CertificateRecord):
        return record.idx
    if not header.pairs:
        return record.index
    if record.target is None:
        raise ValueError(f"target of image {record.index} must be a class, since the run attacks every wrong class")
    return record.index, record.target


def index_of(key: Key) -> int:
    """Return the dataset index of a row known by a key."""
    return key[0] if isinstance(key, tuple) else key


def to_frame(kind: Kind, records: Sequence[Record]) -> pd.DataFrame:
    """Rows as a table, columns typed also where there is no row at all."""
    values = [tuple(getattr(record, column) for column in COLUMNS[kind]) for record in records]
    return pd.DataFrame(values, columns=COLUMNS[kind]).astype(_DTYPES[kind])
