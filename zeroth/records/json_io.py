"""Files replaced as a whole, and JSON as the records use it: one spelling for hashing, no NaN."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def plain(value: Any, *, canonical: bool = False) -> Any:
    """Turn a value into what strict JSON can hold.

    NumPy scalars and arrays become numbers and lists, tuples lists, paths strings; NaN and infinities become None:
    JSON has no word for them, and most readers stop at Python's bare ``NaN``.

    Args:
        value: numbers, text, lists and mappings, nested at will.
        canonical: for settings that are compared: whole floats become integers (a user's 1 and 1.0 are one setting, as
            in RFC 8785), and inf the text "inf", which None would confuse with "not set".

    Raises:
        ValueError: a value of another type, or a mapping whose keys are no strings; the message names the type.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise ValueError(
                f"keys must be strings to be written as JSON, got {wrong[0]!r} ({type(wrong[0]).__name__})"
            )
        return {key: plain(item, canonical=canonical) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, canonical=canonical) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(float(value)) if canonical else None
        return int(value) if canonical and value.is_integer() else float(value)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    raise ValueError(f"cannot write {type(value).__name__} {value!r} as JSON: give numbers, text, lists or mappings")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a file to write that takes the place of ``path`` at the end: a reader, or a kill, never meets half of it.

    The folder is made. Where the body fails, ``path`` is left as it was.

    Raises:
        OSError: the disk refused; an earlier file is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # beside it: a rename is atomic only within one disk
    try:
        yield part
        with part.open("r+b") as file:
            os.fsync(file.fileno())  # else a power cut may keep the new name and lose the new bytes
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write text by :func:`replacing`, in UTF-8.

    Raises:
        OSError: the disk refused; an earlier file is untouched.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``plain(value)`` by :func:`replacing`: strict JSON, so NaN and infinities are written as null.

    Raises:
        ValueError: a value that JSON cannot hold.
        OSError: the disk refused; an earlier file is untouched.
    """
    write_text(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path, *, remedy: str) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        remedy: what a user whose file is damaged can do, e.g. "delete it to begin anew".

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged; names it and the remedy.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # no UTF-8, or no JSON
        raise ValueError(f"{path} is damaged ({error}): {remedy}") from error


def difference(was: Any, now: Any, field: str = "", *, tolerance: float = 0.0) -> tuple[str, Any, Any] | None:
    """Find the first field in which two nested plain values differ.

    Args:
        was: numbers, text, lists and mappings, nested at will.
        now: the other one.
        field: what the whole is called.
        tolerance: relative and absolute; numbers that are this close are equal.

    Returns:
        the field's name, e.g. ``images.count`` or ``radii[2]``, and its two values; None where all agree.
    """
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        names = sorted({*was, *now})
        pairs = [(f"{field}.{name}" if field else str(name), was.get(name), now.get(name)) for name in names]
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        pairs = [(f"{field}[{place}]", *pair) for place, pair in enumerate(zip(was, now, strict=True))]
    else:
        numbers = isinstance(was, int | float) and isinstance(now, int | float)
        same = math.isclose(was, now, rel_tol=tolerance, abs_tol=tolerance) if numbers else was == now
        return None if same else (field, was, now)
    found = (difference(one, two, name, tolerance=tolerance) for name, one, two in pairs)
    return next((pair for pair in found if pair), None)
