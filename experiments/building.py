"""Builds the cells of a table from its finished runs, and refuses runs that do not belong together."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.cells import (
    CELL_VERSION,
    START,
    Cell,
    CellKind,
    Origin,
    attack_settings,
    machine_paths,
    tuned_settings,
    tuning_told,
    victim_named,
)
from experiments.curves import copy_curve
from experiments.examples import copy_examples
from experiments.experiment import Experiment, Job, Row, Stage
from experiments.measuring import measure
from experiments.plan import BEST, REPORT, ROOT, Plan, PlannedStage
from zeroth.records import difference, file_sha256, read_json, write_merged
from zeroth.records.rows import SUFFIXES

KINDS: dict[Job, CellKind] = {"attack": "attack", "certify": "certificate", "study": "study"}


def build_cell(experiment: Experiment, plan: Plan, row: Row, folder: Path) -> Cell:
    """Copy what a run measured into a published folder, and describe it.

    Args:
        experiment: whose row it is.
        plan: where its runs lie.
        row: the line.
        folder: gets ``records/<stage>...``, for a tuned method ``tuning/<tune stage>.json``, what a picture shows of
            its images, ``examples/<stage>.safetensors``, and distances over queries, ``curves/<stage>.safetensors``.

    Raises:
        FileNotFoundError: the run has no rows yet, or its victim no checkpoint.
        ValueError: the run is not complete; it was of another checkpoint than its victim stage now has, or of another
            attack than its tune stage now has found; or a field tells a path of this machine.
    """
    planned = {stage.name: stage for stage in plan.stages}
    stage, run = experiment.stages[row.stage], ROOT / planned[row.stage].folder
    kind = KINDS[stage.job]
    lineage = _told(run / "lineage.json", row.stage, run)
    if not lineage.get("starts"):
        raise ValueError(f"{run / 'lineage.json'} tells of no start: delete the folder and run stage {row.stage} again")
    first, *later = [{key: start[key] for key in START} for start in lineage["starts"]]
    records = _copy_records(run, row.stage, kind, folder)
    origin = Origin.of(records, kind)
    norm = _report(run, row.stage)["norm"] if kind == "attack" else None
    measured, queries, count = measure(
        records, kind, experiment.radii, origin.settings, case=row.case, norm=norm, seed=origin.seed
    )
    if kind != "study" and count < (asked := origin.images["count"] or _report(run, row.stage)["images"]):
        raise ValueError(f"stage {row.stage} has {count} of {asked} rows in {run}: {_again(run)}")
    victim = None if stage.victim is None else planned[stage.victim]
    _require_victim(victim, row.stage, origin.checkpoint_sha256, run)
    path, tuning = stage.options.get(stage.job), None
    if stage.tuned is not None:
        path = experiment.stages[stage.tuned].options.get("attack")
        tuning = _copy_tuning(planned[stage.tuned], folder)
        _require_tuned(planned[stage.tuned], victim, row.stage, stage, origin, run)
    examples = copy_examples(experiment, planned[row.stage], row, folder)
    curve = copy_curve(experiment, planned[row.stage], folder) if kind == "attack" else None
    cell = Cell(
        schema_version=CELL_VERSION,
        experiment=plan.experiment,
        scale=plan.scale,
        dataset=experiment.dataset[plan.scale],
        subject=_subject(experiment, victim, origin),
        method=row.method,
        stage=row.stage,
        kind=kind,
        reported=row.reported,
        source=row.source,
        measured=measured,
        seed=origin.seed,
        queries=queries,
        images={**origin.images, "count": count},
        config={"path": path, "hash": origin.config_hash, "settings": origin.method},
        norm=norm,
        tuning=tuning,
        **first,
        later_starts=later,
        note=row.note,
        records={"file": records.relative_to(folder).as_posix(), "sha256": file_sha256(records)},
        case=row.case,
        examples=examples,
        curve=curve,
    )
    _refuse_machine_paths(cell.to_dict(), row.stage)
    return cell


def _again(run: Path) -> str:
    """What to do where a stage that was marked as done is not whole: the programs go on with what is there."""
    return f"delete {run}/done* and give the same command again"


def _must(path: Path, stage: str, run: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"stage {stage} has no {path}: {_again(run)}")
    return path


def _told(path: Path, stage: str, run: Path) -> Any:
    return read_json(_must(path, stage, run), remedy=f"delete it, {_again(run)}")


def _report(run: Path, stage: str) -> dict[str, Any]:
    return _told(run / REPORT, stage, run)


def _require_victim(victim: PlannedStage | None, stage: str, sha256: str | None, run: Path) -> None:
    """Refuse a run whose victim is not, or no longer, the best checkpoint of its train stage, if it has one."""
    if victim is None:  # named by options, which the hash of the run's folder covers
        return
    best = ROOT / victim.folder / BEST
    if (now := file_sha256(_must(best, victim.name, ROOT / victim.folder))) != sha256:
        raise ValueError(
            f"stage {stage} is of the checkpoint with sha256 {sha256}, but {best} has {now}: "
            f"delete {run} and run the table again"
        )


def _require_tuned(
    tune: PlannedStage, victim: PlannedStage | None, name: str, stage: Stage, origin: Origin, run: Path
) -> None:
    """Refuse a run of another attack than its tuning found, and a tuning on another checkpoint."""
    folder = ROOT / tune.folder
    trials = _told(folder / "trials.json", tune.name, folder)
    _require_victim(victim, tune.name, trials["victim"].get("checkpoint_sha256"), folder)
    wanted, ran = tuned_settings(trials, stage.options), attack_settings(origin.settings)
    if found := difference(wanted, ran, "attack"):
        raise ValueError(
            f"stage {name} ran with {found[0]} = {found[2]!r}, but {folder / 'trials.json'} and the stage's options "
            f"say {found[1]!r}: delete {run} and run the table again"
        )


def _copy_records(run: Path, stage: str, kind: CellKind, folder: Path) -> Path:
    if kind == "study":
        return _copy(_must(run / "study.json", stage, run), folder / "records" / f"{stage}.json", stage)
    path = folder / "records" / f"{stage}{SUFFIXES[kind]}"
    try:
        write_merged(run, path, kind)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"stage {stage}: {error}; {_again(run)}") from error
    return path


def _copy_tuning(tune: PlannedStage, folder: Path) -> dict[str, Any]:
    run = ROOT / tune.folder
    trials = _must(run / "trials.json", tune.name, run)
    copy = _copy(trials, folder / "tuning" / f"{tune.name}.json", tune.name)
    told = tuning_told(json.loads(copy.read_text(encoding="utf-8")))
    return {**told, "file": copy.relative_to(folder).as_posix(), "sha256": file_sha256(copy)}


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


def _subject(experiment: Experiment, victim: PlannedStage | None, origin: Origin) -> dict[str, Any]:
    """Name the victim by its config, its changes and what twins of it are not built on; with its last accuracy."""
    accuracy, sha256 = None, origin.checkpoint_sha256
    if victim is None:
        return {"name": victim_named(origin.settings), "accuracy": None, "checkpoint_sha256": sha256}
    for log in sorted(
        (ROOT / victim.folder).glob("csv/version_*/metrics.csv"), key=lambda path: int(path.parent.name[8:])
    ):
        table = pd.read_csv(log)
        if "test_accuracy" in table and len(found := table["test_accuracy"].dropna()):
            accuracy = float(found.iloc[-1])
    stage = experiment.stages[victim.name]
    changed = {key: value for key, value in stage.options.items() if key != "config"}
    twins = [other for other in experiment.stages.values() if (other.job, other.options) == (stage.job, stage.options)]
    changed |= {key: told for key, told in stage.models.items() if any(twin.models.get(key) != told for twin in twins)}
    name = victim.folder.name.removesuffix(f"-{victim.hash[:8]}")
    name += "".join(f", {key} {value}" for key, value in changed.items())
    return {"name": name, "accuracy": accuracy, "checkpoint_sha256": sha256}
