"""What a tuning tells: a line while it runs, a table at its end, the tuned file, W&B."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from callbacks.loggers import log_curve, log_files, log_rows, log_scalars, parent_artifacts, runs_of
from callbacks.tasks import EvaluationTask
from callbacks.tuning import Objective, TuningTrial, best_trial
from zeroth.oracles import ProgressUpdate
from zeroth.records import replacing, rich_table, terminal
from zeroth.records.tables import NO_VALUE

SHOWN = 5  # trials in the table on the terminal
# What a value is, in a table's head and in a sentence.
WORDS: dict[Objective, tuple[str, str]] = {
    "queries": ("queries", "mean queries spent an image, a failure counted as the whole budget"),
    "distance": ("median distance", "median distance over the attacked images"),
}


class TuningProgress(Callback):
    """Shows trials done, queries a second, the best value so far and the time left, inside :meth:`over`.

    Args:
        trials: how many there will be.
        tried: trials of earlier starts.
        console: where to print; default the terminal.
    """

    def __init__(self, trials: int, tried: Sequence[TuningTrial], console: Console | None = None) -> None:
        self.trials, self.images = trials, 0
        # Trials differ in length by far: the time left is judged by the last quarter of an hour, not by rich's 30 s.
        columns = (TextColumn("trials"), BarColumn(), TextColumn("{task.fields[told]}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console or Console(), speed_estimate_period=900)
        self._task = TaskID(0)
        self._done, self._images, self._queries, self._now = len(tried), 0, 0, 0
        self._best = best_trial(tried) if tried else None

    @contextmanager
    def over(self, images: int) -> Iterator[None]:
        """Show the line, each trial being tried on so many images."""
        self.images, done = images, self._done * images
        self._task = self._bar.add_task("trials", total=self.trials * images, completed=done, told=self._text())
        with self._bar:
            yield

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Listen to the batch that begins."""
        task: EvaluationTask = pl_module  # type: ignore[assignment]
        task.progress = self._update

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Add the batch that ended."""
        self._images, self._now = self._images + len(outputs), 0
        self._queries += int(outputs.queries.sum())

    def ended(self, trial: TuningTrial) -> None:
        """Add a trial that ended."""
        self._best = trial if self._best is None else best_trial([self._best, trial])
        self._done, self._images, self._now = self._done + 1, 0, 0
        self._show(0)

    def _update(self, now: ProgressUpdate) -> None:
        self._now = now.queries
        self._show(now.finished)

    def _show(self, finished: int) -> None:
        done = self._done * self.images + self._images + finished
        self._bar.update(self._task, completed=done, told=self._text())

    def _text(self) -> str:
        elapsed = self._bar.tasks[self._task].elapsed if self._bar.tasks else None
        rate = f", {(self._queries + self._now) / elapsed:,.0f} queries/s" if elapsed else ""
        best = f", best {self._best.value:.4g} (trial {self._best.number})" if self._best is not None else ""
        return f"{self._done}/{self.trials}{rate}{best}"


def tuned_config(told: Mapping[str, Any]) -> str:
    """Write the best trial as a file for --attack, a comment saying how it was found.

    Args:
        told: what trials.json says.
    """
    best, first, objective = told["best"], told["results"][0], told["objective"]
    images = told["selection"]
    victim = told["victim"].get("checkpoint_sha256") or told["victim"].get("state_dict_sha256")
    lines = [
        f"Tuned by tune.py: trial {best['number']} of {told['trials']} ({told['sampler']}, seed {told['seed']}), "
        f"{told['images']} images of {told['data']}, split {images['split']} from {images['start']} on.",
        f"Victim {told['victim_name']}{f' (sha256 {victim[:12]})' if victim else ''}, "
        f"budget {told['budget']:,} queries an image, targets: {told['targeted']}.",
        f"{WORDS[objective][1].capitalize()}: {_number(best['value'])}; as given: {_number(first['value'])}. "
        f"Success rate {best['success_rate']:.1%}; as given: {first['success_rate']:.1%}.",
    ]
    config = {"class_path": told["attack"], "init_args": {**told["given"], **best["params"]}}
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(config, sort_keys=False)


def log_trial(runs: Sequence[Any], trial: TuningTrial) -> None:
    """Log a trial's value and numeric parameters over the number of the trial."""
    told = {"value": trial.value, "success_rate": trial.success_rate, "mean_queries": trial.mean_queries}
    numbers = {f"params/{name}": value for name, value in trial.params.items() if isinstance(value, int | float)}
    log_curve(runs, "trial", [trial.number], {name: [value] for name, value in (told | numbers).items()})


def report_tuning(
    trainer: Trainer, folder: Path, told: Mapping[str, Any], tried: Sequence[TuningTrial], parents: Sequence[Any],
    write: Path | None = None,
) -> None:  # fmt: skip
    """Write tuned.yaml, print the best trials, and log all of them.

    Args:
        trainer: whose loggers get the numbers.
        folder: the run folder, with trials.json.
        told: what trials.json says.
        tried: all trials.
        parents: the victim's files, as lineage.json has them.
        write: gets a copy of tuned.yaml.
    """
    tuned = [folder / "tuned.yaml", *([] if write is None else [write])]
    for path in tuned:
        with replacing(path) as part:
            part.write_text(tuned_config(told), encoding="utf-8")
    console, best = terminal(), best_trial(tried)
    console.print(rich_table(_frame(tried, told["objective"])))
    failed = sum(trial.failed is not None for trial in tried)
    console.print(
        f"best of {len(tried)} trials: {best.number}, {_number(best.value)} ({WORDS[told['objective']][1]}); "
        f"as given: {_number(tried[0].value)}" + (f"; {failed} trials failed, see trials.json" if failed else "")
    )
    for path in tuned:
        console.print(f"tuned: {path}", soft_wrap=True)
    console.print(f"run folder: {folder}", soft_wrap=True)

    runs = runs_of(trainer)
    log_rows(runs, "trials", _trial_table(tried))
    log_scalars(trainer, {"best": best.value, "given": tried[0].value, "best_trial": best.number, "trials": len(tried)})
    files = [folder / name for name in ("trials.json", "tuned.yaml", "lineage.json", "config.yaml")]
    sha256 = [parent["sha256"] for parent in parents]
    log_files(runs, f"tune-{folder.name}", "report", files, {"parents": sha256}, parent_artifacts(parents))


def _trial_table(tried: Sequence[TuningTrial]) -> pd.DataFrame:
    """All trials, a column a parameter; where one has texts among its values, all are texts: W&B mixes no types."""
    table = pd.DataFrame([asdict(trial) for trial in tried], dtype=object).drop(columns="params")
    for name in tried[0].params:
        values = [trial.params[name] for trial in tried]
        table[name] = pd.Series(
            [str(v) for v in values] if any(isinstance(v, str) for v in values) else values, dtype=object
        )
    return table


def _frame(tried: Sequence[TuningTrial], objective: Objective) -> pd.DataFrame:
    """Lay out the best trials and the given one as text."""
    ranked = sorted(tried, key=lambda trial: trial.value)[:SHOWN]
    shown = [*ranked, *(trial for trial in tried[:1] if trial not in ranked)]
    return pd.DataFrame(
        [
            {
                "trial": f"{trial.number}{' (as given)' if trial.number == 0 else ''}",
                WORDS[objective][0]: _number(trial.value),
                "success %": NO_VALUE if trial.success_rate is None else f"{100 * trial.success_rate:.1f}",
                **{name: str(value) for name, value in trial.params.items()},
            }
            for trial in shown
        ],
        dtype=object,
    )


def _number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.4g}"
