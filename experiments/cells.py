"""A cell: one JSON file a line of a table, what the paper reports and what was measured, and where that comes from."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from zeroth.records import Case, Norm, config_hash, flatten, read_json, read_records

# Raised when a field is added, removed or changes its meaning.
CELL_VERSION = 1
CellKind = Literal["attack", "certificate", "study"]
# Settings that are told in fields of their own; the rest is the method's.
_TOLD_ELSEWHERE = ("victim", "data", "images", "seed")
# What each start of a run tells of the machine and the code.
START = ("commit", "hardware", "versions", "python", "started")
# Fields that a file may lack.
SOME_TABLES = ("case", "distances", "ratio", "examples", "curve", "at")
_MACHINE_PATH = re.compile(r"(^|[\s=:,'\"(])([A-Za-z]:\\|~?/\w)")


@dataclass(frozen=True)
class Cell:
    """What one (dataset, subject, method) gave.

    Args:
        schema_version: :data:`CELL_VERSION`.
        experiment: id of the table, e.g. "zo_ngd/table1_mnist".
        scale: scale of the experiment.
        dataset: as the experiment names it.
        subject: the victim: ``name``, ``accuracy`` (a fraction of the test split, None where nobody measured it) and
            ``checkpoint_sha256``, None of published or random weights, which the name tells. All None without one.
        method: what the line is called.
        stage: the run that it reports.
        kind: what was done.
        reported: figures of the paper, see :class:`~experiments.experiment.Row`.
        source: where the paper reports them.
        measured: what ``attack_summary`` or ``certificate_summary`` say of the records; of a study, its study.json.
        seed: seed of the run.
        queries: images asked in all.
        images: ``split``, ``count``, ``start`` and ``stride`` of the images; of other problems ``count`` alone.
        config: ``path`` of the config in the experiment, ``hash`` of the settings that decide the rows, and the
            method's resolved ``settings`` by dotted key.
        norm: the attack's norm, None for other kinds.
        tuning: ``trials``, ``seed``, ``objective``, number of ``images``, their ``split`` and, where the tuning tells,
            how many were ``attacked``, and the ``file`` with its ``sha256``; None for a method that was not tuned.
        commit: git commit of the code, with "+changes" where the tree was dirty.
        hardware: processor, cores, memory, GPUs.
        versions: library -> version.
        python: its version.
        started: when, ISO 8601 in UTC.
        later_starts: the same five of a run that was resumed, or sharded, under another commit, machine or library.
        note: what a reader must know to compare.
        records: ``file`` in the folder of the cell, and its ``sha256``.
        case: which of an image's targets ``measured`` is of, see :class:`~experiments.experiment.Row`.
        distances: norm -> ``mean``, ``low`` and ``high`` over the images won, of the norms that the table shows.
        ratio: the mean distance over that of a baseline: ``row``, the baseline's method, ``of``, the norm, ``n`` pairs,
            ``value``, ``low``, ``high``, and ``reported``, the paper's. Of medians ``of`` is "median_at", and ``mark``
            the number of queries; of studies ``of`` is the name of a figure.
        examples: ``file`` in the folder of the cell with the images that a picture shows, and its ``sha256``.
        curve: ``file`` in the folder of the cell with the distances over queries, and its ``sha256``.
        at: distances at the experiment's marks, see :func:`~experiments.curves.at_marks`.
    """

    schema_version: int
    experiment: str
    scale: str
    dataset: str
    subject: dict[str, Any]
    method: str
    stage: str
    kind: CellKind
    reported: dict[str, Any]
    source: str | None
    measured: dict[str, Any]
    seed: int
    queries: int
    images: dict[str, Any]
    config: dict[str, Any]
    norm: Norm | None
    tuning: dict[str, Any] | None
    commit: str | None
    hardware: dict[str, Any] | None
    versions: dict[str, Any]
    python: str | None
    started: str | None
    later_starts: list[dict[str, Any]]
    note: str | None
    records: dict[str, str]
    case: Case | None = None
    distances: dict[Norm, dict[str, float | None]] | None = None
    ratio: dict[str, Any] | None = None
    examples: dict[str, str] | None = None
    curve: dict[str, str] | None = None
    at: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Stem of its file, as :attr:`~experiments.experiment.Row.name`."""
        return self.stage if self.case is None else f"{self.stage}-{self.case}"

    def to_dict(self) -> dict[str, Any]:
        """Return the cell as plain values, in the order of the file; what only some tables have is left out if None."""
        told = asdict(self)
        return {key: value for key, value in told.items() if value is not None or key not in SOME_TABLES}

    def setting(self, key: str) -> Any:
        """Look a setting of the method up by the dotted key of its command line option, e.g. "attack.epsilon".

        Raises:
            ValueError: the method has no such setting; lists those that it has.
        """
        settings = by_option(self.config["settings"])
        if key not in settings:
            raise ValueError(f"{self.method} has no setting {key}, it has {', '.join(sorted(settings))}")
        return settings[key]


def read_cell(path: Path, remedy: str) -> Cell:
    """Read a cell back.

    Args:
        path: the file.
        remedy: the command that publishes the table again.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or no cell of this version; the message names it and the remedy.
    """
    told = read_json(path, remedy=remedy)
    try:
        require_version(told, CELL_VERSION)
        return Cell(**told)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no cell of this version ({error}): {remedy}") from error


def require_version(told: Mapping[str, Any], version: int) -> None:
    """Raise ValueError unless a file is of the version that is read here."""
    if told["schema_version"] != version:
        raise ValueError(f"schema_version {told['schema_version']}, this version reads {version}")


@dataclass(frozen=True)
class Origin:
    """What a published record file itself tells of the run that it is of.

    Args:
        seed: seed of the run.
        checkpoint_sha256: the victim's file.
        config_hash: hash of the settings.
        settings: all that decide the rows, by dotted key.
    """

    seed: int
    checkpoint_sha256: str | None
    config_hash: str
    settings: dict[str, Any]

    @classmethod
    def of(cls, records: Path, kind: CellKind) -> "Origin":
        """Read it from the header of a record file, or from the study.json of a study.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no such file of this version; the message names it.
        """
        if kind != "study":
            header, _ = read_records(records)
            return cls(header.seed, header.checkpoint_sha256, header.config_hash, header.config)
        told = json.loads(records.read_text(encoding="utf-8"))
        settings = flatten(told["settings"])
        return cls(told["seed"], told["checkpoint_sha256"], config_hash(settings), settings)

    @property
    def images(self) -> dict[str, Any]:
        """The selection of images: ``split``, ``count`` (None for all), ``start`` and ``stride``."""
        return {key.removeprefix("images."): value for key, value in self.settings.items() if key.startswith("images.")}

    @property
    def method(self) -> dict[str, Any]:
        """The settings that belong to the method."""
        return method_settings(self.settings)


def method_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the settings of the method from all that decide the rows, by dotted key."""
    return {key: value for key, value in settings.items() if key.partition(".")[0] not in _TOLD_ELSEWHERE}


def victim_named(settings: Mapping[str, Any]) -> str | None:
    """Name a victim that no stage trained, with all that it was made of: "inception_v3 (weights DEFAULT)".

    Args:
        settings: all that decide the rows, by dotted key.

    Returns:
        None for the victim of a checkpoint.
    """
    name = settings.get("victim.name")
    if name is None:
        return None
    start = "victim.init_args."
    made = [f"{key.removeprefix(start)} {value}" for key, value in settings.items() if key.startswith(start)]
    if (weights := settings.get("victim.weights")) is not None:
        made.append(f"weights {weights}")
    elif "." not in name and "victim.state_dict_sha256" not in settings:
        made.append("random weights")  # a class of one's own may bring weights itself
    return class_name(name) + (f" ({', '.join(made)})" if made else "")


def axis_number(value: Any) -> float | None:
    """Where a setting stands on an axis: a number at itself, a size (h, w) at h w; None for anything else."""
    numbers = value if isinstance(value, list | tuple) and value else [value]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        return None
    return math.prod(numbers)


def by_option(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Name settings by their command line options: "attack.init_args.mu" is "attack.mu"."""
    return {name.replace(".init_args.", "."): value for name, value in settings.items()}


def tuning_told(trials: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what a cell says of its tuning from what trials.json says."""
    told = {key: trials[key] for key in ("trials", "seed", "objective", "images")}
    attacked = trials["best"].get("attacked")  # older tunings do not tell
    return {**told, "split": trials["selection"]["split"], **({} if attacked is None else {"attacked": attacked})}


def tuned_settings(trials: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Lay out the attack that a tuned line must have run: the best trial's, with the options of the line's own stage.

    Args:
        trials: what trials.json says.
        options: of the stage, e.g. ``{"attack.accept": "iterates"}``.

    Returns:
        the settings of the attack by the dotted keys of a cell; the class by its name alone.
    """
    own = {
        key.removeprefix("attack.").removeprefix("init_args."): _number(value)
        for key, value in options.items()
        if key.startswith("attack.")
    }
    arguments = {**trials["given"], **trials["best"]["params"], **own}
    return {"class_path": class_name(trials["attack"]), **flatten(arguments, "init_args.")}


def attack_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Pick the attack from settings by dotted key, in the form of :func:`tuned_settings`."""
    found = {key.removeprefix("attack."): value for key, value in settings.items() if key.startswith("attack.")}
    return {**found, "class_path": class_name(found["class_path"])}


def class_name(path: str) -> str:
    """Return the last part of a class path: a class of the project may be named by that alone."""
    return path.rpartition(".")[2]


def unlike_victims(cells: Sequence[Cell]) -> list[str]:
    """Say where cells of one table mean different victims by one name; a line a name."""
    subjects: dict[str, set[tuple[Any, Any]]] = {}
    for cell in cells:
        told = cell.subject["checkpoint_sha256"], cell.subject["accuracy"]
        subjects.setdefault(cell.subject["name"], set()).add(told)
    return [
        f"the victim {name} has {len(told)} checkpoints or accuracies: {sorted(told, key=str)}"
        for name, told in subjects.items()
        if len(told) > 1
    ]


def machine_paths(value: Any, field: str = "") -> Iterator[str]:
    """Yield "field: text" for each text, in nested values, that holds an absolute path: it tells of one machine."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from machine_paths(item, f"{field}.{key}" if field else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from machine_paths(item, f"{field}[{number}]")
    elif isinstance(value, str) and _MACHINE_PATH.search(value):
        yield f"{field}: {value}"


def _number(value: Any) -> Any:
    """YAML reads 1e-3 as text, the command line as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
