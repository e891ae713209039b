"""reproduce.py's command line: plan, check the datasets, hand the stages to Snakemake, publish."""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import pandas as pd
from filelock import Timeout

from callbacks.lineage import LINEAGE, read_lineage
from callbacks.provenance import commit_of
from callbacks.selection import Selection
from cli.parser import PARSER, ZerothParser
from cli.processes import die_with_parent, locked
from experiments.experiment import Scale
from experiments.loading import load_experiment
from experiments.plan import ROOT, Plan, PlannedStage, make_plan, rooted
from experiments.resolving import build_data
from zeroth.records import rich_table, terminal

# Seconds that stopped stages get to end by themselves.
GRACE = 10
EXAMPLES = """\
Make a table of a paper. Stages that are done are not run again; a killed start goes on when the same command is given
again. Words after -- go to Snakemake, which runs the stages.

examples:
  python reproduce.py configs/experiment/zo_ngd/table1_mnist.yaml --scale digits
  python reproduce.py configs/experiment/zo_ngd/table1_mnist.yaml --dry-run
  python reproduce.py configs/experiment/cohen/mnist.yaml --shards 8 --jobs 8 --devices 1 -- --executor slurm
"""


def reproduce(words: Sequence[str] | None = None) -> None:
    """Run the stages that are left and publish the table; returns when both are done.

    Args:
        words: command line words; default: the program's own.

    Raises:
        ValueError: the experiment, an option, or another start of the same experiment is in the way.
        FileNotFoundError: a file or a dataset is missing; nothing has been run then.
        SystemExit: a stage failed; the exit code is Snakemake's.
    """
    given = list(sys.argv[1:] if words is None else words)
    cut = given.index("--") if "--" in given else len(given)
    options = _parser().parse_args(given[:cut])
    if options.jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {options.jobs}")
    file, runs, results = (rooted(Path(path)) for path in (options.experiment, options.runs, options.results))
    os.chdir(ROOT)  # commands and configs name files from here
    experiment = load_experiment(file, options.scale)
    plan = make_plan(
        experiment,
        options.scale,
        file=file,
        runs=runs,
        results=results,
        shards=options.shards,
        devices=options.devices,
    )
    show_plan(plan)
    if options.dry_run:
        return
    left = [stage for stage in plan.stages if not stage.done]
    if left and sys.platform == "win32":
        raise ValueError("stages are run on Linux and macOS alone: use WSL on Windows, where only --dry-run works")
    threads = threads_of(options.jobs, given[cut + 1 :])
    require_writable("runs", ROOT / runs)
    require_writable("results", ROOT / results)
    check_data(plan)
    plan.place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(plan.place.with_suffix(".lock"), timeout=0):
            if left:
                gpus = options.devices or 0
                run_stages(plan, jobs=options.jobs, threads=threads, gpus=gpus, words=given[cut + 1 :])
            # Not before: it loads what no stage needs.
            from experiments.publish import publish

            folder = publish(experiment, plan, results)
    except Timeout as error:
        raise ValueError(
            f"another reproduce.py is at work on {plan.experiment} at scale {plan.scale} in {runs}: wait for its end, "
            "or give this one a folder of its own by --runs"
        ) from error
    console = terminal()
    if (table := folder / "table.md").is_file():
        console.print(table.read_text(encoding="utf-8"), markup=False, soft_wrap=True)
    console.print(f"published: {folder}", soft_wrap=True)


def require_writable(option: str, folder: Path) -> None:
    """See that a folder, or the nearest one above it that is there, takes a file; leaves nothing behind.

    Raises:
        ValueError: it does not; names the option and the remedy.
    """
    near = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    try:
        with tempfile.TemporaryFile(dir=near) as file:
            file.write(b"x")
    except OSError as error:
        raise ValueError(
            f"--{option} {folder}: {near} takes no file ({error.strerror}): name a folder that you may write to"
        ) from error


def check_data(plan: Plan) -> None:
    """See that the images of all stages that are to run are there, downloading what can be.

    Raises:
        FileNotFoundError: a dataset is missing; says how to get it.
        ValueError: a split has fewer images than a stage takes; names the file and the stage.
    """
    built: dict[str, Any] = {}
    for stage in plan.stages:
        if stage.done:
            continue
        key = json.dumps(stage.data, sort_keys=True)
        if key not in built:
            built[key] = build_data(stage.data)
            built[key].prepare_data()
        if stage.images:
            selection = Selection(**stage.images)
            try:
                selection.places(len(built[key].dataset(selection.split)))
            except ValueError as error:
                raise ValueError(f"{plan.file}: stages.{stage.name}: {error}") from error


def threads_of(jobs: int, words: Sequence[str]) -> int:
    """Processors of each command: OMP_NUM_THREADS, else its share of this host's, or one on the hosts of a cluster.

    Args:
        jobs: commands that run at once.
        words: the words for Snakemake.

    Raises:
        ValueError: OMP_NUM_THREADS is no number.
    """
    if given := os.environ.get("OMP_NUM_THREADS"):
        first = given.partition(",")[0].strip()  # OpenMP takes a list, a number a level of nesting
        if not first.isdecimal() or int(first) < 1:
            raise ValueError(f"OMP_NUM_THREADS must be a number of threads from 1 on, got {given!r}")
        return int(first)
    if any(word.partition("=")[0] in ("--executor", "-e") for word in words):
        return 1  # the host that submits says nothing about those that work
    return max(1, (os.cpu_count() or 1) // jobs)


def run_stages(plan: Plan, *, jobs: int, threads: int = 1, gpus: int = 0, words: Sequence[str] = ()) -> None:
    """Run what is left of a plan by Snakemake.

    Args:
        plan: the plan.
        jobs: commands that run at once.
        threads: processors of each command.
        gpus: GPUs that a command asks of a cluster, if it has a use for as many.
        words: further words for Snakemake.

    Raises:
        SystemExit: a command failed, or the run was stopped.
    """
    for stage in plan.stages:
        # Marked, but what it made is gone: Snakemake would see nothing to do.
        if not stage.done and all(marker.is_file() for marker in stage.markers):
            for marker in stage.markers:
                marker.unlink()
    place = plan.write()
    engine = [sys.executable, "-m", "snakemake", "--config", f"plan={place}", f"threads={threads}", f"gpu={gpus}"]
    # Its own files go beside the plan. No lock of its own: a killed start would leave it behind.
    engine += ["--snakefile", str(ROOT / "experiments" / "Snakefile"), "--directory", str(place.parent), "--nolock"]
    engine += ["--rerun-incomplete", "--rerun-triggers", "mtime"]
    engine += ["--cores", str(jobs * threads), "--jobs", str(jobs)]  # the second is what an executor of a cluster reads
    # Stages speak for themselves; whoever gives Snakemake words of their own, for a cluster say, hears what it answers.
    engine += ["--quiet", *(("rules", "host") if words else ("all",)), "--scheduler", "greedy", *words]
    # A session of its own: Ctrl-C comes to this process alone, which passes it on once to the engine and the stages.
    process = subprocess.Popen(engine, start_new_session=True, preexec_fn=partial(die_with_parent, os.getpid()))
    stopped: list[int] = []
    # All stages go on after a kill, so one that does not listen is killed.
    last_word = threading.Timer(GRACE, os.killpg, (process.pid, signal.SIGKILL))

    def stop(number: int, frame: FrameType | None) -> None:
        if not stopped:
            last_word.start()
        stopped.append(number)
        os.killpg(process.pid, number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        last_word.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        sys.stderr.write("reproduce.py: stopped; the same command goes on from here\n")
        sys.exit(128 + stopped[0])
    if code:
        sys.stderr.write(_failure(plan, place))
        sys.exit(code if code > 0 else 128 - code)


def show_plan(plan: Plan) -> None:
    """Print the stages, what is left of them, and what that costs."""
    left = [stage for stage in plan.stages if not stage.done]
    rows = [
        {
            "stage": stage.name,
            "job": stage.job,
            "state": "done" if stage.done else "to run",
            "queries": "" if stage.done else _queries([stage]),
            "query time": "" if stage.done else _time([stage]),
            "folder": str(stage.folder),
        }
        for stage in plan.stages
    ]
    console = terminal()
    console.print(rich_table(pd.DataFrame(rows, dtype=object), f"{plan.experiment} at scale {plan.scale}"))
    told = f"{len(left)} of {len(plan.stages)} stages to run"
    if any(stage.queries is not None for stage in left):
        told += f"; queries: {_queries(left)}; query time on 2 CPU cores: {_time(left)}"
    if any(stage.queries is None for stage in left):
        told += f"; not counted: {', '.join(stage.name for stage in left if stage.queries is None)}"
    console.print(told, soft_wrap=True)
    for commit, names in made_elsewhere(plan).items():
        console.print(f"made at {commit}, not the commit of this start: {', '.join(names)}", soft_wrap=True)


def made_elsewhere(plan: Plan) -> dict[str, list[str]]:
    """The stages that are done and were begun at another commit than this: commit -> their names."""
    here = commit_of(ROOT)
    found: dict[str, list[str]] = {}
    for stage in plan.stages:
        if here is None or not stage.done or not (ROOT / stage.folder / LINEAGE).is_file():
            continue
        commit = read_lineage(ROOT / stage.folder).get("commit")
        if commit not in (None, here, here.removesuffix("+changes")):
            found.setdefault(commit, []).append(stage.name)
    return found


def _queries(stages: Sequence[PlannedStage]) -> str:
    known = [stage.queries for stage in stages if stage.queries is not None]
    return f"{_bound(stages)}{sum(known):,}" if known else "-"


def _time(stages: Sequence[PlannedStage]) -> str:
    known = [stage.seconds for stage in stages if stage.seconds is not None]
    if not known:
        return "-"
    minutes = math.ceil(sum(known) / 60)
    return _bound(stages) + (f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min")


def _bound(stages: Sequence[PlannedStage]) -> str:
    return "at most " if any(stage.at_most for stage in stages) else ""


def _failure(plan: Plan, place: Path) -> str:
    """Say which commands did not end well: those begun since the plan was written and not marked."""
    begun = place.stat().st_mtime
    lines = []
    for stage in plan.stages:
        for command, marker in zip(stage.commands, stage.markers, strict=True):
            lock = marker.with_name(f"{marker.name}.lock")
            if not stage.done and not marker.is_file() and lock.is_file() and lock.stat().st_mtime >= begun:
                lines.append(f"reproduce.py: error: stage {stage.name} failed: {shlex.join(command)}\n")
    lines = lines or ["reproduce.py: error: Snakemake ended before any stage failed; -- --quiet host lets it say why\n"]
    return "".join([*dict.fromkeys(lines), "When the cause is mended, the same command goes on from here.\n"])


def _parser() -> ZerothParser:
    usage = "%(prog)s EXPERIMENT [options] [-- snakemake options]"
    settings: dict[str, Any] = PARSER | {"description": EXAMPLES, "usage": usage}
    parser = ZerothParser(**settings)
    parser.add_argument("experiment", type=str, help="experiment file, configs/experiment/<paper>/<table>.yaml")
    parser.add_argument("--scale", type=Scale, default="mnist", help=f"one of {', '.join(get_args(Scale))}")
    parser.add_argument("--dry_run", action="store_true", help="show the stages and their cost; ask and write nothing")
    parser.add_argument("--jobs", type=int, default=1, help="commands that run at once")
    parser.add_argument("--shards", type=int, default=1, help="parts of each attack and certification")
    parser.add_argument(
        "--devices", type=int | None, default=None, help="devices of each attack and certification, by Lightning's DDP"
    )
    parser.add_argument("--runs", type=str, default="runs", help="folder of all runs")
    parser.add_argument("--results", type=str, default="results", help="folder of published tables")
    return parser
