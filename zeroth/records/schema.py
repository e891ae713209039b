"""What one row of a result says, and the header that tells which run wrote it. Plain Python: no torch, no pandas.

All distances and radii are in [0, 1] pixels.
"""

import hashlib
import json
import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any, Literal, get_args

from zeroth.records.json_io import plain

# Raised when a field is added, removed or changes its meaning: files of another version are refused, not guessed at.
SCHEMA_VERSION = 1
ABSTAIN = -1
# Written decimals of a radius: a millionth of the pixel range is below any radius that is ever compared.
RADIUS_DECIMALS = 6

Kind = Literal["attack", "certificate"]


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of a configuration's canonical JSON; the order of keys does not matter."""
    text = json.dumps(
        plain(config, canonical=True), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: str | Path) -> str:
    """Return the hex SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys: ``{"attack": {"epsilon": 0.2}}`` -> ``{"attack.epsilon": 0.2}``."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def floor_radius(radius: float) -> str:
    """Print a radius to :data:`RADIUS_DECIMALS` decimals, never above its value: a certificate must not grow on paper.

    ``Decimal(radius)`` is the float's exact value, so the floor is exact; float arithmetic could round up. A float
    a hair below a short decimal loses the last digit: 0.3 is 0.29999999999999998 and prints as 0.299999.
    """
    return str(Decimal(radius).quantize(Decimal(1).scaleb(-RADIUS_DECIMALS), rounding=ROUND_FLOOR))


def _set_integers(record: Any, *names: str) -> None:
    """Turn integers of NumPy or of one-element tensors into Python's."""
    for name in names:
        value = getattr(record, name)
        try:
            object.__setattr__(record, name, operator.index(value))
        except TypeError:
            raise ValueError(f"{name} must be an integer, got {value!r}") from None


def _duration(record: Any, name: str) -> float:
    value = float(getattr(record, name))
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return value


@dataclass(frozen=True)
class AttackRecord:
    """One attacked image.

    Args:
        index: dataset index.
        label: true label.
        target: wanted label, None in an untargeted attack; -1 where the victim was to tell it and was never asked.
        predicted: the victim's class for the adversarial image, or for the clean one where none was found; -1 where the
            victim was never asked.
        success: whether an adversarial image was found.
        queries: images asked, the first check included.
        queries_to_success: number of the first adversarial query, -1 where none.
        l0: pixels changed, None where the attack failed.
        l1: distance; None where the attack failed, also if the caller gives a number (the clean image is no result).
        l2: as l1.
        linf: as l1.
        seconds: time until the image left play.
        fail_reason: "" on success, else "budget", "total_budget", "misclassified", "already_target" or an attack's own
            words.

    Raises:
        ValueError: fields that contradict each other; the message names the field.
    """

    index: int
    label: int
    target: int | None
    predicted: int
    success: bool
    queries: int
    queries_to_success: int
    l0: int | None
    l1: float | None
    l2: float | None
    linf: float | None
    seconds: float
    fail_reason: str = ""

    def __post_init__(self) -> None:
        _set_integers(self, "index", "label", "predicted", "queries", "queries_to_success")
        if self.target is not None:
            _set_integers(self, "target")
        object.__setattr__(self, "success", bool(self.success))
        object.__setattr__(self, "seconds", _duration(self, "seconds"))
        for name in ("l0", "l1", "l2", "linf"):
            value = getattr(self, name) if self.success else None
            if self.success and (value is None or not 0 <= value < math.inf):
                raise ValueError(
                    f"{name} of image {self.index} must be a finite distance, since success is true, got {value}"
                )
            number = int if name == "l0" else float
            object.__setattr__(self, name, None if value is None else number(value))
        first = self.queries_to_success
        if not (1 <= first <= self.queries if self.success else first == -1 and self.queries >= 0):
            raise ValueError(
                f"queries_to_success of image {self.index} must lie in 1..queries on success and be -1 otherwise, "
                f"got {first} with {self.queries} queries and success {self.success}"
            )
        if self.success == bool(self.fail_reason):
            raise ValueError(
                f"fail_reason of image {self.index} must be empty on success and say why otherwise, "
                f"got {self.fail_reason!r}"
            )


@dataclass(frozen=True)
class CertificateRecord:
    """One certified image, in the columns of Cohen et al.'s files.

    Args:
        idx: dataset index.
        label: true label.
        predict: class of the smoothed classifier, :data:`ABSTAIN` where it abstains.
        radius: certified l2 radius, 0 where it abstains.
        correct: whether predict is the label.
        time: seconds the image took.

    Raises:
        ValueError: fields that contradict each other; the message names the field.
    """

    idx: int
    label: int
    predict: int
    radius: float
    correct: bool
    time: float

    def __post_init__(self) -> None:
        _set_integers(self, "idx", "label", "predict")
        object.__setattr__(self, "radius", float(self.radius))
        object.__setattr__(self, "correct", bool(self.correct))
        object.__setattr__(self, "time", _duration(self, "time"))
        if not 0 <= self.radius < math.inf:
            raise ValueError(f"radius of image {self.idx} must be finite and not negative, got {self.radius}")
        if self.predict == ABSTAIN and self.radius > 0:
            raise ValueError(f"radius of image {self.idx} must be 0, since it abstained, got {self.radius}")
        if self.correct != (self.predict != ABSTAIN and self.predict == self.label):
            raise ValueError(
                f"correct of image {self.idx} must say whether predict is the label (an abstention is wrong), "
                f"got {self.correct} with predict {self.predict} and label {self.label}"
            )


Record = AttackRecord | CertificateRecord
COLUMNS: dict[Kind, list[str]] = {
    "attack": [column.name for column in fields(AttackRecord)],
    "certificate": [column.name for column in fields(CertificateRecord)],
}


@dataclass(frozen=True)
class RecordHeader:
    """Which run wrote a file. Two runs may share a file exactly when their headers are equal.

    What does not change a row (rank, shard, device, folder) stays out of ``config``, or shards could not be merged.

    Args:
        kind: "attack" or "certificate".
        config: the resolved settings that matter; nested mappings are flattened to dotted keys.
        seed: seed of the run.
        checkpoint_sha256: hash of the victim's file, None for a victim without one.
        config_hash: hash of ``config``; "" computes it. Give it where the hash covers more than ``config`` tells.
        schema_version: version of the columns.

    Raises:
        ValueError: an unknown kind, or a setting that is no plain value.
    """

    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)
    kind: Kind = field(kw_only=True)
    config_hash: str = field(default="", kw_only=True)
    checkpoint_sha256: str | None = field(default=None, kw_only=True)
    seed: int = field(kw_only=True)
    config: dict[str, Any] = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        _set_integers(self, "schema_version", "seed")
        # As the file will give it back (tuples as lists, paths as text), so that a header equals its own copy on disk.
        object.__setattr__(self, "config", plain(flatten(self.config), canonical=True))
        if not self.config_hash:
            object.__setattr__(self, "config_hash", config_hash(self.config))

    @property
    def pairs(self) -> bool:
        """Whether an image has several rows, one a target."""
        return self.kind == "attack" and self.config.get("targeted") == "all"

    def to_dict(self) -> dict[str, Any]:
        """Return the header as plain values, in the order of the file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "RecordHeader":
        """Read :meth:`to_dict` back.

        Raises:
            ValueError: not such a dictionary; the message says what is missing.
        """
        if not isinstance(values, dict):
            raise ValueError(f"a record header is a JSON object, got {type(values).__name__}")
        names = {column.name for column in fields(cls)}
        if missing := sorted(names - values.keys()):
            raise ValueError(f"the header lacks {', '.join(missing)}")
        return cls(**{name: values[name] for name in names})

    def differences(self, other: "RecordHeader") -> dict[str, tuple[str, str]]:
        """Return the fields that differ, each as this header's value and the other's in print; empty for the same run.

        Settings are named ``config.<key>``; the hash is named only where no setting explains it.
        """
        mine, theirs = ({**h.to_dict(), **{f"config.{k}": v for k, v in h.config.items()}} for h in (self, other))
        found = {}
        for name in dict.fromkeys([*mine, *theirs]):
            pair = tuple(repr(side[name]) if name in side else "absent" for side in (mine, theirs))
            if name != "config" and pair[0] != pair[1]:
                found[name] = (pair[0], pair[1])
        if any(name.startswith("config.") for name in found):
            found.pop("config_hash", None)
        return found
