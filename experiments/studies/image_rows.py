"""Rows of a study on disk while it is made: a JSON line an image, so that a killed study goes on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zeroth.records import difference

Row = dict[str, Any]


class ImageRows:
    """The rows of one study, each with the ``index`` of its image; the first line tells what they were made with.

    A row is handed to the operating system as soon as its batch ends. A line that a kill has torn is cut off.

    Args:
        path: file of the rows; its folder is there.
        settings: plain values that decide the rows.

    Raises:
        ValueError: the file holds rows of other settings, or no rows of a study.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._rows: dict[int, Row] = {}
        header = json.loads(json.dumps({"settings": settings}))  # as it comes back
        if not path.is_file() or b"\n" not in path.read_bytes():
            path.write_text(json.dumps(header) + "\n", encoding="utf-8")
            return
        *lines, torn = path.read_bytes().split(b"\n")
        try:
            first, *rows = (json.loads(line) for line in lines)
            self._rows = {row["index"]: row for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it to measure its images again") from error
        if found := difference(first, header):
            raise ValueError(
                f"{path} was made with {found[0]} = {found[1]!r}, this run has {found[2]!r}: delete it, or give this "
                "run a name of its own by --run.name"
            )
        if torn:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - len(torn))

    def __len__(self) -> int:
        """Return the number of images that have a row."""
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        """Go through the rows in the order in which they were made."""
        return iter(self._rows.values())

    def of(self, indices: Sequence[int]) -> list[Row] | None:
        """Return the rows of a batch of images; None unless all of them have one."""
        rows = [self._rows.get(index) for index in indices]
        return None if None in rows else [row for row in rows if row is not None]

    def append(self, rows: Sequence[Row]) -> None:
        """Add the rows of a batch; those that are there already stay as they are."""
        new = {row["index"]: row for row in rows if row["index"] not in self._rows}
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(row)}\n" for row in new.values())
        self._rows |= new
