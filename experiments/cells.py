"""A cell: one JSON file a line of a table, what the paper reports and what was measured, and where that comes from."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from experiments.experiment import Experiment, Job, Row
from experiments.plan import ROOT, Plan, PlannedStage
from zeroth.records import attack_summary, certificate_summary, file_sha256, flatten, merge_records, plain, write_merged
from zeroth.records.rows import SUFFIXES

# Raised when a field is added, removed or changes its meaning.
CELL_VERSION = 1
CellKind = Literal["attack", "certificate", "study"]
KINDS: dict[Job, CellKind] = {"attack": "attack", "certify": "certificate", "study": "study"}
# Settings that are told in fields of their own; the rest is the method's.
_TOLD_ELSEWHERE = ("victim", "data", "images", "seed")
# What each start of a run tells of the machine and the code.
START = ("commit", "hardware", "versions", "python", "started")
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
            ``checkpoint_sha256``.
        method: what the line is called.
        stage: the run that it reports.
        kind: what was done.
        reported: figures of the paper, see :class:`~experiments.experiment.Row`.
        source: where the paper reports them.
        measured: what ``attack_summary`` or ``certificate_summary`` say of the records; of a study, its study.json.
        seed: seed of the run.
        queries: images asked in all.
        images: ``split``, ``count``, ``start`` and ``stride`` of the images.
        config: ``path`` of the config in the experiment, ``hash`` of the settings that decide the rows, and the
            method's resolved ``settings`` by dotted key.
        norm: the attack's norm, None for other kinds.
        tuning: ``trials``, ``seed``, ``objective``, number of ``images`` and their ``split``, and the ``file`` with its
            ``sha256``; None for a method that was not tuned.
        commit: git commit of the code, with "+changes" where the tree was dirty.
        hardware: processor, cores, memory, GPUs.
        versions: library -> version.
        python: its version.
        started: when, ISO 8601 in UTC.
        later_starts: the same five of a run that was resumed, or sharded, under another commit, machine or library.
        note: what a reader must know to compare.
        records: ``file`` in the folder of the cell, and its ``sha256``.
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
    norm: str | None
    tuning: dict[str, Any] | None
    commit: str | None
    hardware: dict[str, Any] | None
    versions: dict[str, Any]
    python: str | None
    started: str | None
    later_starts: list[dict[str, Any]]
    note: str | None
    records: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the cell as plain values, in the order of the file."""
        return asdict(self)

    def setting(self, key: str) -> Any:
        """Look a setting of the method up by the dotted key of its command line option, e.g. "attack.epsilon".

        Raises:
            ValueError: the method has no such setting; lists those that it has.
        """
        settings = {name.replace(".init_args.", "."): value for name, value in self.config["settings"].items()}
        if key not in settings:
            raise ValueError(f"{self.method} has no setting {key}, it has {', '.join(sorted(settings))}")
        return settings[key]


def read_cell(path: Path) -> Cell:
    """Read a cell back.

    Raises:
        ValueError: the file is no cell of this version; the message names it.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        require_version(told, CELL_VERSION)
        return Cell(**told)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no cell of this version ({error}): publish the table again") from error


def require_version(told: Mapping[str, Any], version: int) -> None:
    """Raise ValueError unless a file is of the version that is read here."""
    if told["schema_version"] != version:
        raise ValueError(f"schema_version {told['schema_version']}, this version reads {version}")


def build_cell(experiment: Experiment, plan: Plan, row: Row, folder: Path) -> Cell:
    """Copy what a run measured into a published folder, and describe it.

    Args:
        experiment: whose row it is.
        plan: where its runs lie.
        row: the line.
        folder: gets ``records/<stage>...`` and, for a tuned method, ``tuning/<stage>.json``.

    Raises:
        FileNotFoundError: the run has no rows yet.
        ValueError: the run is not complete, or a field tells a path of this machine.
    """
    planned = {stage.name: stage for stage in plan.stages}
    stage, run = experiment.stages[row.stage], ROOT / planned[row.stage].folder
    kind = KINDS[stage.job]
    lineage = json.loads(_must(run / "lineage.json", row.stage).read_text(encoding="utf-8"))
    if not lineage.get("starts"):
        raise ValueError(f"{run / 'lineage.json'} tells of no start: delete the folder and run stage {row.stage} again")
    first, *later = [{key: start[key] for key in START} for start in lineage["starts"]]
    settings = flatten(lineage["settings"])
    records = _copy_records(run, row.stage, kind, folder)
    measured, queries, count = measure(records, kind, experiment.radii, settings)
    wanted = lineage["settings"]["images"]
    if kind != "study" and count < (asked := wanted["count"] or _report(run, row.stage)["images"]):
        raise ValueError(
            f"stage {row.stage} has {count} of {asked} rows in {run}: run it to its end, then publish the table"
        )
    path = stage.options.get(stage.job) if stage.tuned is None else experiment.stages[stage.tuned].options.get("attack")
    sha256 = lineage["parents"][0]["sha256"]
    cell = Cell(
        schema_version=CELL_VERSION,
        experiment=plan.experiment,
        scale=plan.scale,
        dataset=experiment.dataset[plan.scale],
        subject=_subject(planned[str(stage.victim)], sha256),
        method=row.method,
        stage=row.stage,
        kind=kind,
        reported=row.reported,
        source=row.source,
        measured=measured,
        seed=settings["seed"],
        queries=queries,
        images={**wanted, "count": count},
        config={
            "path": path,
            "hash": lineage["config_hash"],
            "settings": method_settings(settings),
        },
        norm=_report(run, row.stage)["norm"] if kind == "attack" else None,
        tuning=None if stage.tuned is None else _copy_tuning(planned[stage.tuned], folder),
        **first,
        later_starts=later,
        note=row.note,
        records={"file": records.relative_to(folder).as_posix(), "sha256": file_sha256(records)},
    )
    _refuse_machine_paths(cell.to_dict(), row.stage)
    return cell


def measure(
    records: Path, kind: CellKind, radii: list[float], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], int, int]:
    """Summarise a published record file: what the cell says is measured, the images asked in all, the images.

    Args:
        records: the merged rows, or the study.json of a study.
        kind: of the cell.
        radii: of the certified accuracy, l_2 in [0, 1] pixels.
        settings: of the method, by dotted key.
    """
    if kind == "study":
        study = json.loads(records.read_text(encoding="utf-8"))
        return study, study["queries"], study["n"]
    rows: pd.DataFrame = merge_records(records)
    if kind == "attack":
        return plain(attack_summary(rows)), int(rows["queries"].sum()), len(rows)
    asked = len(rows) * (settings["certify.n0"] + settings["certify.n"])
    return plain(certificate_summary(rows, radii)), asked, len(rows)


def method_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what belongs to the method of the settings of a run, by dotted key."""
    return {key: value for key, value in settings.items() if key.partition(".")[0] not in _TOLD_ELSEWHERE}


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


def _must(path: Path, stage: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"stage {stage} has no {path}: run it to its end, then publish the table")
    return path


def _report(run: Path, stage: str) -> dict[str, Any]:
    return json.loads(_must(run / "report.json", stage).read_text(encoding="utf-8"))


def _copy_records(run: Path, stage: str, kind: CellKind, folder: Path) -> Path:
    if kind == "study":
        return _copy(_must(run / "study.json", stage), folder / "records" / f"{stage}.json", stage)
    path = folder / "records" / f"{stage}{SUFFIXES[kind]}"
    try:
        write_merged(run, path, kind)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"stage {stage}: {error}; run it to its end, then publish the table") from error
    return path


def _copy_tuning(tune: PlannedStage, folder: Path) -> dict[str, Any]:
    trials = _must(ROOT / tune.folder / "trials.json", tune.name)
    copy = _copy(trials, folder / "tuning" / f"{tune.name}.json", tune.name)
    told = json.loads(copy.read_text(encoding="utf-8"))
    return {key: told[key] for key in ("trials", "seed", "objective", "images")} | {
        "split": told["selection"]["split"],
        "file": copy.relative_to(folder).as_posix(),
        "sha256": file_sha256(copy),
    }


def _copy(file: Path, copy: Path, stage: str) -> Path:
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(file.read_bytes())
    _refuse_machine_paths(json.loads(copy.read_text(encoding="utf-8")), stage)
    return copy


def _refuse_machine_paths(told: Any, stage: str) -> None:
    if found := next(machine_paths(told), None):
        raise ValueError(
            f"stage {stage} would publish a path of this machine, {found}: make it relative to the checkout"
        )


def _subject(victim: PlannedStage, sha256: str) -> dict[str, Any]:
    """Name the victim by its config and look its accuracy up in the log of its last test, where there was one."""
    accuracy = None
    for log in sorted(
        (ROOT / victim.folder).glob("csv/version_*/metrics.csv"), key=lambda path: int(path.parent.name[8:])
    ):
        table = pd.read_csv(log)
        if "test_accuracy" in table and len(found := table["test_accuracy"].dropna()):
            accuracy = float(found.iloc[-1])
    name = victim.folder.name.removesuffix(f"-{victim.hash[:8]}")
    return {"name": name, "accuracy": accuracy, "checkpoint_sha256": sha256}
