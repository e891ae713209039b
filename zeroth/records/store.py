"""A result on disk while it is made: rows are appended one at a time, so a kill or a full disk costs at most one."""

import errno
import json
import os
import warnings
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from zeroth.records.json_io import write_json
from zeroth.records.reading import header_path, load, require_same_run
from zeroth.records.rows import TSV_COLUMNS, Key, format_row, key_of, kind_of
from zeroth.records.schema import AttackRecord, Record, RecordHeader

# The system's own call and not filelock: its locks of a path open a file of their own, or leave one behind where the
# system has no locks, and its lock of a descriptor is this call, but on Windows one that shuts out readers too.
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class RecordFile:
    """The record file of one writer; each rank or shard has its own (see :func:`~zeroth.records.record_path`).

    A new file gets the header. An existing one is continued if its header is this run's: a torn last line is cut off,
    and ``done`` holds the images that need not be run again.

    A row is handed to the operating system as soon as it is appended: it outlives the process. It is not forced to the
    platter (fsync takes longer than certifying a small image); a power cut may cost the last rows, which are run again.

    The open file is locked against a second writer, not against readers. The lock lies on the file itself and is the
    system's: it ends with the process, however that ends, and leaves nothing behind.

    Args:
        path: attacks end in ``.jsonl``, certificates in ``.tsv``; the folder is made.
        header: the run that writes.

    Attributes:
        path: as given.
        header: as given.
        done: keys of the rows in the file: dataset indices, or (index, target) of a run with ``targeted: all``.

    Raises:
        RecordMismatch: the file holds rows of another run; the message names the file, each field, both values and the
            remedy.
        ValueError: the file is no record file, or is damaged before its last line.
        BlockingIOError: another process is writing the file.
        OSError: the disk refused the header.
    """

    def __init__(self, path: str | Path, header: RecordHeader) -> None:
        self.path, self.header = Path(path), header
        if kind_of(self.path) != header.kind:
            raise ValueError(
                f"{self.path} cannot hold {header.kind} records: attacks end in .jsonl, certificates in .tsv"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a buffer would keep a row that the disk refused and write it again later, behind our back.
        self._file = self.path.open("ab", buffering=0)
        try:
            self._lock()  # before the file is read: a row that another process adds later would be cut off
            contents = load(self.path)
            require_same_run(self.path, contents.header, header)
            self.done: set[Key] = {key_of(record, header) for record in contents.records}
            self._size, self._torn = contents.size, contents.torn
            if contents.torn:
                warnings.warn(f"{self.path}: the last line was torn and is dropped", stacklevel=2)
            self._cut()
            if contents.header is None:
                if header.kind == "certificate":
                    self._write_sidecar()  # first: rows without a header could not be told from another run's
                self._write(self._first_line())
        except BaseException:
            self._file.close()
            raise
        _OPEN.add(self)

    def append(self, record: Record) -> bool:
        """Write one row; returns False, and writes nothing, where the image (or pair) has a row already.

        Raises:
            ValueError: a record of the other kind.
            OSError: the disk refused (full, say). Earlier rows are safe and the file ends after the last of them; the
                row may be appended again once there is space.
        """
        kind = "attack" if isinstance(record, AttackRecord) else "certificate"
        if kind != self.header.kind:
            raise ValueError(f"{self.path} holds {self.header.kind} records, got {record!r}")
        if (key := key_of(record, self.header)) in self.done:
            return False
        self._write(format_row(record) + "\n")
        self.done.add(key)
        return True

    def __len__(self) -> int:
        """Return the number of rows in the file."""
        return len(self.done)

    def close(self) -> None:
        """Close the file; it can be opened again and continued."""
        self._file.close()

    def __enter__(self) -> "RecordFile":
        """Return the open file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def _lock(self) -> None:
        """Take the file for this process, or raise BlockingIOError; warn where the file system has no locks."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # EACCES is how some network file systems say EWOULDBLOCK.
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                raise BlockingIOError(
                    errno.EWOULDBLOCK,
                    f"{self.path} is taken: another process is writing it. "
                    "Wait for it or end it, then start the same command again",
                ) from error
            warnings.warn(
                f"{self.path} cannot be locked ({error.strerror}), so nothing keeps a second process from writing it "
                "too: start each run once",
                stacklevel=3,
            )

    def _first_line(self) -> str:
        if self.header.kind == "certificate":
            return TSV_COLUMNS + "\n"
        return json.dumps(self.header.to_dict(), allow_nan=False) + "\n"

    def _write_sidecar(self) -> None:
        path = header_path(self.path)
        try:
            write_json(path, self.header.to_dict())
        except OSError as error:
            raise self._refused(path, error) from error

    def _write(self, text: str) -> None:
        data = text.encode()
        left = memoryview(data)
        try:
            if self._torn:  # an earlier failure that could not be cut off at once
                self._cut()
            self._torn = True  # until the last byte is down
            while left:  # an unbuffered write may take only a part, which is what a nearly full disk does
                left = left[self._file.write(left) or 0 :]
        except OSError as error:
            with suppress(OSError):
                self._cut()
            raise self._refused(self.path, error) from error
        self._size += len(data)
        self._torn = False

    def _cut(self) -> None:
        """Cut off what follows the last whole row."""
        if self._torn:
            os.ftruncate(self._file.fileno(), self._size)
            self._torn = False

    def _refused(self, path: Path, error: OSError) -> OSError:
        return OSError(
            error.errno,
            f"{path} could not be written ({error.strerror}); its {len(self.done)} rows are safe. "
            "Free disk space and start the same command again: it goes on after them",
        )


_OPEN: "weakref.WeakSet[RecordFile]" = weakref.WeakSet()


def _close_inherited() -> None:
    """Close, in a forked child, what the parent writes; the parent's own handle, and its lock, stay.

    A child that kept them (a data loader's worker, which outlives a killed parent by seconds) would keep the lock too.
    """
    for file in list(_OPEN):
        file.close()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_close_inherited)
