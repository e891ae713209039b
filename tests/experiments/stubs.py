"""A workflow of four small programs, in place of hours of evaluations."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from experiments.plan import Plan, PlannedStage, finished
from experiments.workflow import run_stages

WHOLE = '{"complete": true}'
PARENTS = {"a": [], "b": ["a"], "c": ["b"], "d": ["a"]}


def until(true: Callable[[], object], seconds: float = 300) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class Stub:
    """A plan whose stages are small programs: each appends its name to a log; a stage's hash is in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.codes = {name: f"open({str(self.log)!r}, 'a').write({name!r})" for name in PARENTS}
        self.versions = dict.fromkeys(PARENTS, 1)

    def plan(self, cut: str | None = None) -> Plan:
        """Make the plan anew; ``cut`` names a stage in two shards."""
        stages = []
        for name, parents in PARENTS.items():
            ours = [name, *parents, *(p for parent in parents for p in PARENTS[parent])]
            place = self.folder / "attack" / f"{name}-{'-'.join(str(self.versions[one]) for one in ours)}"
            report = f"; open({str(place / 'report.json')!r}, 'w').write({WHOLE!r})"
            parts = [".1of2", ".2of2"] if name == cut else [""]
            stages.append(
                PlannedStage(
                    name=name,
                    job="attack",
                    folder=place,
                    hash="",
                    commands=[[sys.executable, "-S", "-c", self.codes[name] + report] for _ in parts],
                    parents=parents,
                    markers=[place / f"done{part}" for part in parts],
                    done=finished(place, "attack"),
                )
            )
        return Plan("paper/stub", self.folder / "stub.yaml", "digits", self.folder, stages)

    def run(self, **options) -> str:
        """Run what is left; returns what was appended to the log."""
        self.log.write_text("")
        run_stages(self.plan(options.pop("cut", None)), **{"jobs": 1, "gpus": 0, **options})
        return self.log.read_text()
