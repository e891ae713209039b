"""Record files read back: one file, or the files of many ranks and shards as one table."""

import json
import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from zeroth.records.rows import SUFFIXES, TSV_COLUMNS, Key, key_of, kind_of, parse_row, to_frame
from zeroth.records.schema import SCHEMA_VERSION, Kind, Record, RecordHeader

_HEADER_START = b'{"schema_version"'


class RecordMismatch(ValueError):
    """Rows of different runs would end up in one table."""


@dataclass(frozen=True)
class Contents:
    """What a record file holds.

    Args:
        header: None where the file is missing, empty, or was torn before its first line ended.
        records: whole rows in the order of the file, the first of each key.
        size: bytes up to the end of the last whole row.
        torn: whether something follows that is no whole row.
    """

    header: RecordHeader | None
    records: list[Record]
    size: int
    torn: bool


def record_path(folder: str | Path, kind: Kind, *, rank: int = 0, shard: tuple[int, int] | None = None) -> Path:
    """Name the file of one writer: attack.jsonl, attack.rank1.jsonl, attack.shard2of4.rank1.jsonl.

    Args:
        folder: the run folder.
        kind: "attack" or "certificate".
        rank: rank of the process; 0 has the plain name, so that one rank can go on with what rank 0 of several began.
        shard: (k, n) of ``--shard k/n``.
    """
    part = "" if shard is None else f".shard{shard[0]}of{shard[1]}"
    return Path(folder) / f"{kind}{part}{f'.rank{rank}' if rank else ''}{SUFFIXES[kind]}"


def header_path(path: Path) -> Path:
    """Sidecar of a TSV: certificate.rank1.tsv -> certificate.rank1.header.json.

    Cohen's analysis reads the TSV by ``pandas.read_csv(path, delimiter="\\t")``, which takes the first line for the
    column names and knows no comments: a header inside the file would break every tool that expects his format.
    """
    return path.with_suffix(".header.json")


def load(path: Path) -> Contents:
    """Read a record file and leave it as it is.

    Raises:
        ValueError: the file is no record file, or a row before the last is damaged; the message names file and line.
    """
    kind = kind_of(path)
    data = path.read_bytes() if path.exists() else b""
    size = data.rfind(b"\n") + 1
    lines = data[:size].split(b"\n")[:-1]
    if not lines:
        first = _HEADER_START if kind == "attack" else TSV_COLUMNS.encode()
        if data[: len(first)] != first[: len(data)]:
            raise _foreign(path, "its first line is no header")
        return Contents(None, [], 0, bool(data))
    header = _header(path, kind, lines[0])
    if header.kind != kind:
        raise _foreign(path, f"its header says {header.kind}")
    if header.schema_version != SCHEMA_VERSION:
        return Contents(header, [], size, size < len(data))  # never parsed by the wrong columns: the callers refuse
    records: dict[Key, Record] = {}
    torn = size < len(data)
    for number, line in enumerate(lines[1:], start=2):
        try:
            record = parse_row(kind, line.decode())
            key = key_of(record, header)
        except (ValueError, TypeError) as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number} is damaged ({error}): mend or delete the line") from error
            size, torn = size - len(line) - 1, True  # a power cut can leave a last line whole in length only
        else:
            records.setdefault(key, record)
    return Contents(header, list(records.values()), size, torn)


def read_records(path: str | Path) -> tuple[RecordHeader, pd.DataFrame]:
    """Read one file: its header and its rows, one an image (or pair), in the order they were written.

    A torn last line is left out with a warning. Times come back in seconds, a missing distance as NaN.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no record file, of another schema version, or damaged before its last line.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no record file {path}")
    header, records = _rows(path)
    if header is None:
        raise ValueError(f"{path} holds no rows: its run ended before the header was written")
    return header, to_frame(header.kind, records)


def find_records(folder: str | Path, kind: Kind) -> list[Path]:
    """Files that :func:`record_path` names in a folder, of all ranks and shards, by shard and rank."""
    name = re.compile(rf"{kind}(?:\.shard(\d+)of(\d+))?(?:\.rank(\d+))?{re.escape(SUFFIXES[kind])}")
    found = [(match, path) for path in Path(folder).glob(f"{kind}*") if (match := name.fullmatch(path.name))]
    return [path for _, path in sorted((tuple(int(n or 0) for n in match.groups()), path) for match, path in found)]


def merge_records(source: str | Path | Iterable[str | Path], kind: Kind | None = None) -> pd.DataFrame:
    """Join the files of all ranks and shards to one table sorted by dataset index, one row an image.

    Of equal rows (time aside) for one image the first is kept. A run with ``targeted: all`` has one row a pair of an
    image and a target, sorted by both.

    Args:
        source: a run folder, or the files.
        kind: which records of a folder that holds both; None takes the kind that is there.

    Raises:
        FileNotFoundError: no record files.
        RecordMismatch: files of different runs, or different rows for one image.
        ValueError: both kinds in one folder and ``kind`` not given, or a file that :func:`read_records` refuses.
    """
    paths = source_paths(source, kind)
    run: tuple[Path, RecordHeader] | None = None
    merged: dict[Key, tuple[Path, Record]] = {}
    for path in paths:
        header, records = _rows(path)
        if header is None:
            continue
        run = run or (path, header)
        if differences := run[1].differences(header):
            told = "".join(f"\n  {name}: {one} and {two}" for name, (one, two) in differences.items())
            raise RecordMismatch(f"{run[0]} and {path} hold rows of different runs:{told}\nMerge each run by itself.")
        for record in records:
            key = key_of(record, header)
            known, first = merged.setdefault(key, (path, record))
            if first is not record and (column := _conflict(first, record)):
                raise RecordMismatch(
                    f"{known} and {path} disagree on image {key}: {column} is {getattr(first, column)!r} "
                    f"and {getattr(record, column)!r}\nOne is of another run: delete it and run its images again."
                )
    if run is None:
        raise FileNotFoundError(f"no rows in {', '.join(map(str, paths))}: the run ended before it wrote any")
    return to_frame(run[1].kind, [merged[key][1] for key in sorted(merged)])


def done_keys(folder: str | Path, header: RecordHeader) -> set[Key]:
    """Keys of the rows that any rank or shard recorded, so that a run may resume on another number of ranks.

    Raises:
        RecordMismatch: a file of another run; the message names file, field, both values and the remedy.
    """
    done: set[Key] = set()
    for path in find_records(folder, header.kind):
        contents = load(path)
        require_same_run(path, contents.header, header)
        done |= {key_of(record, header) for record in contents.records}
    return done


def require_same_run(path: Path, found: RecordHeader | None, wanted: RecordHeader) -> None:
    """Raise RecordMismatch unless a file's header is this run's, or the file has none yet."""
    if found is None or not (differences := found.differences(wanted)):
        return
    told = "".join(f"\n  {name}: {old} in the file, {new} in this run" for name, (old, new) in differences.items())
    raise RecordMismatch(
        f"{path} holds rows of another run, so nothing was written:{told}\n"
        "Choose another run name, or delete the file to start over."
    )


def source_paths(source: str | Path | Iterable[str | Path], kind: Kind | None) -> list[Path]:
    """Files that are meant by a run folder, one file or several; FileNotFoundError where a folder has none."""
    if not isinstance(source, str | Path):
        return [Path(path) for path in source]
    if Path(source).is_file():
        return [Path(source)]
    found = {k: paths for k in SUFFIXES if kind in (None, k) and (paths := find_records(source, k))}
    if not found:
        raise FileNotFoundError(f"no {kind or 'attack or certificate'} records in {source}")
    if len(found) > 1:
        raise ValueError(f"{source} holds records of both kinds: give kind, attack or certificate")
    return next(iter(found.values()))


def _rows(path: Path) -> tuple[RecordHeader | None, list[Record]]:
    contents = load(path)
    header = contents.header
    if header is not None and header.schema_version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} was written with schema_version {header.schema_version}, this version reads {SCHEMA_VERSION}: "
            "read it with the version of zeroth that wrote it"
        )
    if contents.torn:
        warnings.warn(f"{path}: the last line is torn and left out", stacklevel=3)
    return header, contents.records


def _header(path: Path, kind: Kind, first: bytes) -> RecordHeader:
    if kind == "attack":
        source, text = path, first
    else:
        source = header_path(path)
        if first.decode(errors="replace") != TSV_COLUMNS:
            raise _foreign(path, f"its columns are not {TSV_COLUMNS.split()}")
        if not source.exists():
            raise _foreign(path, f"{source.name} is missing beside it, so nothing tells which run wrote it")
        text = source.read_bytes()
    try:
        return RecordHeader.from_dict(json.loads(text))
    except ValueError as error:
        raise _foreign(source, str(error)) from error


def _foreign(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is no record file of zeroth ({why}): choose another run name, or move the file away")


def _conflict(first: Record, second: Record) -> str | None:
    """Name the first column that differs, times aside; distances may differ by float32 rounding (other batch sizes)."""
    for column, one in asdict(first).items():
        two = getattr(second, column)
        if column in ("seconds", "time") or one == two:
            continue
        if not (isinstance(one, float) and isinstance(two, float) and math.isclose(one, two, rel_tol=1e-5)):
            return column
    return None
