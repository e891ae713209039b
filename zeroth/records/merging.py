"""The files of many ranks and shards as one file, sorted by image: the form in which a run is published."""

import json
from collections.abc import Iterable
from pathlib import Path

from zeroth.records.json_io import write_json, write_text
from zeroth.records.reading import header_path, load, merge_records, source_paths
from zeroth.records.rows import SUFFIXES, TSV_COLUMNS, Key, key_of, parse_row
from zeroth.records.schema import Kind, RecordHeader


def write_merged(source: str | Path | Iterable[str | Path], path: str | Path, kind: Kind | None = None) -> RecordHeader:
    """Write the rows of a run to one file, sorted by dataset index (and target), and return its header.

    However many ranks, shards and starts made the rows, the file is the same but for the times in it. It reads like any
    record file; an earlier file of that name is replaced as a whole.

    Args:
        source: a run folder, or the files.
        path: the new file; attacks end in ``.jsonl``, certificates in ``.tsv``.
        kind: which records of a folder that holds both; None takes the kind that is there.

    Raises:
        FileNotFoundError: no record files, or none with a row.
        RecordMismatch: files of different runs, or different rows for one image.
        ValueError: ``path`` has the ending of another kind, or a file is damaged.
    """
    paths, path = source_paths(source, kind), Path(path)
    merge_records(paths)  # refuses what does not belong together
    filled = [(file, contents) for file in paths if (contents := load(file)).header is not None]
    header = next(contents.header for _, contents in filled if contents.header is not None)
    lines: dict[Key, str] = {}
    for file, contents in filled:
        # Rows are copied as text: a radius that is read and floored again would often lose its last digit.
        for line in file.read_bytes()[: contents.size].decode().split("\n")[1:-1]:
            lines.setdefault(key_of(parse_row(header.kind, line), header), line)
    if path.suffix != SUFFIXES[header.kind]:
        raise ValueError(f"{path} cannot hold {header.kind} records: name it {path.name}{SUFFIXES[header.kind]}")
    first = TSV_COLUMNS if header.kind == "certificate" else json.dumps(header.to_dict(), allow_nan=False)
    if header.kind == "certificate":
        write_json(header_path(path), header.to_dict())
    write_text(path, "\n".join([first, *(lines[key] for key in sorted(lines))]) + "\n")
    return header
