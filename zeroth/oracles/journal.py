"""The victim's answers on disk, in order, so that a killed attack resumes by replay.

An attack is deterministic given its answers and its keyed draws: run again from the start, it asks the same points in
the same order. The journal answers those it holds and the victim is asked only for the rest; no attack needs resume
code.

File: one line of JSON (the fingerprint of the run), then entries ``<count, classes, code, checksum> <answers>``.
Labels take one byte each up to 256 classes, scores four bytes a class.
"""

import json
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

_ENTRY = struct.Struct("<IIBq")  # images in the entry, classes (0 for labels), number code, checksum of the points
_CODES: dict[int, np.dtype[Any]] = {0: np.dtype("uint8"), 1: np.dtype("<i4"), 2: np.dtype("<f4")}


class JournalMismatch(ValueError):
    """The journal was written by another run: other settings, other images, or another order of questions."""


def checksum(points: Tensor, weights: dict[int, Tensor]) -> int:
    """Hash float32 points (N, ...) to 64 bits on their own device, every bit of every pixel counted.

    A multilinear hash modulo 2^64 with fixed odd weights: integer arithmetic, so the same on every device.
    ``weights`` caches them by the number of pixels.
    """
    words = points.flatten(1).view(torch.int32)
    if words.shape[1] not in weights:
        draws = np.random.default_rng(0).integers(-(2**62), 2**62, words.shape[1], dtype=np.int64) * 2 + 1
        weights[words.shape[1]] = torch.from_numpy(draws).to(points.device)
    # In pieces: int64 takes twice the memory of the points.
    pieces = words.split(max(1, 2**22 // words.shape[1]))
    sums = torch.cat([(piece * weights[words.shape[1]]).sum(1) for piece in pieces])
    place = torch.arange(1, 2 * len(sums), 2, device=points.device)
    return int((sums * (place * 0x9E3779B97F4A7C1)).sum())


class Journal:
    """Append-only store of answers. Open with :meth:`open`; hand to an attack as ``journal=``; close when done."""

    def __init__(self, file: BinaryIO, path: Path, start: int) -> None:
        self.path = path
        self.replayed = 0
        self._file, self._end = file, start
        self._weights: dict[int, Tensor] = {}
        self._entries = 0
        file.seek(0, os.SEEK_END)
        self._size = file.tell()

    @classmethod
    def open(cls, path: str | Path, fingerprint: dict[str, Any]) -> "Journal":
        """Open or create a journal.

        Args:
            path: the file; its folder is made.
            fingerprint: JSON values that tell the run: attack, seed, budget, victim, images.

        Raises:
            JournalMismatch: the file was written under another fingerprint; the message names the first field that
                differs.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        head = (json.dumps(fingerprint, sort_keys=True, default=str) + "\n").encode()
        # Unbuffered: a buffer would hold an entry that the disk refused, and fail again when the file is closed.
        file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        line = file.readline()
        if line != head and head.startswith(line):  # new, or killed while the first line was written: nothing was asked
            file.seek(0)
            file.truncate()
            file.write(head)
        elif line != head:
            file.close()
            now = json.loads(head)
            try:
                was = dict(json.loads(line))
            except (ValueError, TypeError) as error:
                raise JournalMismatch(f"{path} is no journal: choose another path, or delete the file") from error
            missing = object()
            field = next(k for k in sorted({*was, *now}) if was.get(k, missing) != now.get(k, missing))
            raise JournalMismatch(
                f"journal {path} was written with {field} = {was.get(field)!r}, this run has {now.get(field)!r}: "
                "use the settings that wrote it, or delete the file to ask again from the start"
            )
        return cls(file, path, len(head))

    def replay(self, points: Tensor) -> Tensor | None:
        """Return the stored answers to points (N, ...) if the next entry holds them, None at the end of the journal.

        Raises:
            JournalMismatch: the next entry answers other points.
        """
        head = self._read(self._end, _ENTRY.size)
        if head is None:
            return None
        count, classes, code, key = _ENTRY.unpack(head)
        dtype = _CODES.get(code, _CODES[0])
        body = self._read(self._end + _ENTRY.size, count * max(classes, 1) * dtype.itemsize)
        if body is None:
            return None
        if count != len(points) or key != checksum(points, self._weights):
            raise JournalMismatch(
                f"journal {self.path} holds answers to other questions: its entry {self._entries + 1} was written for "
                f"{count} other points. "
                "Use the settings, max_batch, package version and device that wrote it, or delete the file"
            )
        self._end += _ENTRY.size + len(body)
        self._entries += 1
        self.replayed += count
        values = torch.from_numpy(np.frombuffer(body, dtype).copy())
        answers = values.reshape(count, classes) if classes else values.long()
        return answers.to(points.device)

    def append(self, points: Tensor, answers: Tensor) -> None:
        """Store the answers (N, K) or labels (N,) to points (N, ...), and hand them to the operating system at once."""
        values = answers.detach().cpu().numpy()
        if values.ndim == 1 and values.min() < 0:
            return  # a fault of the victim that is reported later (smoothing): it may be mended, so it is not kept
        bytes_do = values.ndim == 1 and values.max() < 256
        code = 2 if values.ndim == 2 else 0 if bytes_do else 1
        head = _ENTRY.pack(
            len(values), values.shape[1] if values.ndim == 2 else 0, code, checksum(points, self._weights)
        )
        entry = head + np.ascontiguousarray(values, _CODES[code]).tobytes()
        self._file.seek(self._end)
        self._file.truncate()  # an entry torn by a kill ends here
        try:
            written = 0
            while written < len(entry):
                written += self._file.write(entry[written:]) or 0
        except OSError as error:
            raise OSError(
                error.errno,
                f"journal {self.path} could not be written ({error.strerror}): free disk space and start again, "
                f"{self._entries} answered requests are kept",
            ) from error
        self._end += len(entry)
        self._size = self._end
        self._entries += 1

    def close(self) -> None:
        """Close the file; it stays on disk until deleted."""
        self._file.close()

    def _read(self, start: int, length: int) -> bytes | None:
        if start + length > self._size:
            return None
        self._file.seek(start)
        return self._file.read(length)
