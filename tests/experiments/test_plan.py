"""Plans: which settings decide a folder, what a stage will cost, what is done."""

import functools
import json
import tempfile
from pathlib import Path

import pytest
import yaml

from cli import AttackCLI, CertifyCLI
from cli.folders import result_settings
from experiments.experiment import Experiment
from experiments.loading import load_experiment
from experiments.parsing import option_words
from experiments.plan import ROOT, Plan, make_plan
from experiments.resolving import resolve
from tests.experiments.tiny import tiny, written
from tests.runs import digits_checkpoint
from zeroth.records import flatten, plain

SHIPPED = sorted((ROOT / "configs" / "experiment").glob("*/*.yaml"))
SCALES = [(path, scale) for path in SHIPPED for scale in yaml.safe_load(path.read_text())["scales"]]
TUNED = {"job": "attack", "victim": "victim", "tuned": "tune", "options": {"attack.accept": "iterates"}}


def planned(tmp_path: Path, *, stages: dict | None = None, **options) -> Plan:
    file = written(tmp_path, **({} if stages is None else {"stages": stages}))
    return make_plan(load_experiment(file, "digits"), "digits", file=file, runs=tmp_path / "runs", **options)


def hashes(plan: Plan) -> dict[str, str]:
    return {stage.name: stage.hash for stage in plan.stages}


def with_tuning() -> dict[str, dict]:
    tune = {"attack": "configs/attack/zo_ngd.yaml", "trials": 2, "images.count": 5}
    return tiny()["stages"] | {"tune": {"job": "tune", "victim": "victim", "options": tune}, "tuned": TUNED}


@functools.cache
def hashes_as_they_are() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        return hashes(planned(Path(folder), stages=with_tuning()))


@pytest.mark.parametrize(("path", "scale"), SCALES, ids=lambda value: getattr(value, "stem", value))
def test_every_shipped_experiment_can_be_planned(path, scale, tmp_path):
    experiment = load_experiment(path, scale)
    assert isinstance(experiment, Experiment) and experiment.rows + list(experiment.pictures)
    plan = make_plan(experiment, scale, file=path, runs=tmp_path)
    assert plan.experiment == f"{path.parent.name}/{path.stem}" and plan.file == path.relative_to(ROOT)
    before: set[str] = set()
    for stage in plan.stages:
        assert set(stage.parents) <= before and stage.done is False
        assert stage.folder.name.endswith(f"-{stage.hash[:8]}") and len(stage.hash) == 64
        before.add(stage.name)
    of_others = [stage.folder for stage in plan.stages if stage.job != "train"]
    assert len(set(of_others)) == len(of_others)
    assert list(tmp_path.iterdir()) == []


def test_the_hash_of_a_training_is_that_of_its_lineage(tmp_path):
    lineage = json.loads((digits_checkpoint().parents[1] / "lineage.json").read_text())
    plan = planned(tmp_path)
    assert plan.stages[0].hash == lineage["config_hash"]
    assert plan.stages[0].folder == tmp_path / "runs" / "train-victim" / f"digits-{plan.stages[0].hash[:8]}"


@pytest.mark.parametrize(
    ("stage", "change", "moved"),
    [
        ("victim", {"trainer.max_epochs": 4}, {"victim", "tune", "tuned", "zo", "nes", "sure"}),
        ("victim", {"trainer.num_nodes": 2}, {"victim", "tune", "tuned", "zo", "nes", "sure"}),
        ("victim", {"trainer.num_nodes": 1, "trainer.strategy": "auto", "trainer.accelerator": "cpu"}, set()),
        ("tune", {"trials": 3}, {"tune", "tuned"}),
        ("tuned", {"attack.accept": "all"}, {"tuned"}),
        ("zo", {"budget": 61}, {"zo"}),
        ("zo", {"attack.samples": 3}, {"zo"}),
        ("sure", {"certify.n": 91}, {"sure"}),
        ("zo", {"batch_size": 5}, set()),
        ("zo", {"attack.epsilon": 0.25}, set()),  # spelled out, it is the same
        ("zo", {"max_batch": 7}, set()),
        ("victim", {"trainer.enable_progress_bar": False, "data.num_workers": 1}, set()),
        ("zo", {"total_queries": 500}, {"zo"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_changed_setting_moves_its_stage_and_what_follows(tmp_path, stage, change, moved):
    before, stages = hashes_as_they_are(), with_tuning()
    stages[stage] = {**stages[stage], "options": {**stages[stage]["options"], **change}}
    after = hashes(planned(tmp_path, stages=stages))
    assert {name for name in before if before[name] != after[name]} == moved


def test_a_training_on_several_devices_has_settings_of_its_own():
    one = {"max_epochs": 3}
    for devices in ("auto", 1, "1"):
        assert result_settings({"trainer": {**one, "devices": devices, "strategy": "auto"}}) == {"trainer": one}
    for more in ({"devices": 2}, {"devices": [0, 1]}, {"devices": -1}, {"strategy": "ddp"}):
        assert result_settings({"trainer": {**one, **more}}) == {"trainer": {**one, **more}}


def test_a_space_counts_by_what_it_says(tmp_path):
    stages, found = with_tuning(), []
    for name, high in (("a.yaml", 0.8), ("b.yaml", 0.8), ("b.yaml", 0.9)):
        (tmp_path / name).write_text(f"learning_rate: {{low: 0.02, high: {high}, log: true}}\n")
        stages["tune"]["options"]["space"] = str(tmp_path / name)
        found.append(hashes(planned(tmp_path, stages=stages)))
    assert found[0] == found[1]
    assert {name for name in found[0] if found[1][name] != found[2][name]} == {"tune", "tuned"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 3}, "stages tune and other differ in trials, 2 and 3: all tunings of an experiment get equal"),
        ({"images.count": 6}, "stages tune and other differ in images.count, 5 and 6: "),
        ({"images.start": 5}, "stages tune and other differ in images.start, 0 and 5: "),
        ({"budget": 61}, "stages tune and other differ in budget, 4000 and 61: "),
        ({"seed": 1}, "stages tune and other differ in seed, 0 and 1: "),
        ({"objective": "distance"}, "stages tune and other differ in objective, 'queries' and 'distance': "),
        ({"batch_size": 3, "attack": "configs/attack/nes_pgd.yaml"}, None),
    ],
    ids=str,
)
def test_tunings_of_unequal_effort_are_refused(tmp_path, options, message):
    stages = with_tuning()
    stages["tune"]["options"]["objective"] = "queries"
    told = {key: value for key, value in stages["tune"]["options"].items() if key != "objective"}
    stages["other"] = {"job": "tune", "victim": "victim", "options": {**told, **options}}  # leaves its objective open
    if message is None:
        assert [stage.name for stage in planned(tmp_path, stages=stages).stages][-1] == "other"
        return
    with pytest.raises(ValueError) as refused:
        planned(tmp_path, stages=stages)
    assert str(refused.value).startswith(f"{tmp_path / 'paper' / 'table.yaml'}: {message}")


def test_under_a_cap_on_all_queries_the_batches_matter_and_nothing_is_divided(tmp_path):
    stages = tiny()["stages"]
    stages["zo"]["options"] |= {"total_queries": 500, "batch_size": 4}
    first = planned(tmp_path, stages=stages, shards=3, devices=2).stages[1]
    assert first.queries == 500 and len(first.commands) == 1 and "--trainer.devices" not in first.commands[0]
    stages["zo"]["options"]["batch_size"] = 5
    assert planned(tmp_path, stages=stages).stages[1].hash != first.hash


def test_the_costs_are_images_times_queries(tmp_path):
    tune = {"attack": "configs/attack/zo_ngd.yaml", "trials": 3, "images.count": 5, "budget": 70}
    stages = tiny()["stages"] | {"tune": {"job": "tune", "victim": "victim", "options": tune}}
    stages["all_images"] = {"job": "attack", "victim": "victim", "options": {"attack": "ZONGD", "images.count": None}}
    told = {
        stage.name: (stage.queries, stage.seconds, stage.at_most) for stage in planned(tmp_path, stages=stages).stages
    }
    assert told == {
        "victim": (None, None, False),
        "zo": (12 * 60, 0.72, True),
        "nes": (12 * 40, 0.48, True),
        "sure": (12 * 100, 1.2, False),
        "tune": (3 * 5 * 70, 1.05, True),
        "all_images": (None, None, False),
    }


def test_a_published_mean_is_expected_again(tmp_path):
    cell = tmp_path / "results" / "paper" / "table" / "digits" / "zo.json"
    cell.parent.mkdir(parents=True)
    config = resolve(load_experiment(written(tmp_path), "digits"))["zo"].config
    settings = plain(flatten({key: config[key] for key in ("attack", "budget", "targeted", "images", "data")}))
    assert settings["attack.init_args.epsilon"] == 0.25 and settings["budget"] == 60

    def told(mean: float | None, seed: int = 0, **changed) -> str:
        queries = {"queries": {"mean": mean}}
        return json.dumps({"measured": queries, "seed": seed, "config": {"settings": settings | changed}})

    for text, expected in (
        (told(20.54), (246, False)),  # of 12 images
        (told(20.54, **{"images.count": 500, "data.class_path": "X"}), (246, False)),
        (told(99), (720, False)),  # the budget bounds it
        (told(None), (720, True)),
        (told(20.54, seed=1), (720, True)),
        (told(20.54, budget=61), (720, True)),
        (told(20.54, targeted="next"), (720, True)),
        (told(20.54, **{"attack.init_args.mu": 9}), (720, True)),
        (json.dumps({"measured": {"queries": {"mean": 20.54}}}), (720, True)),
        ("{", (720, True)),
    ):
        cell.write_text(text)
        stage = planned(tmp_path, results=tmp_path / "results").stages[1]
        assert (stage.queries, stage.at_most) == expected
    stages = tiny()["stages"]
    stages["zo"]["options"] |= {"total_queries": 200}
    cell.write_text(told(20.54))
    assert planned(tmp_path, stages=stages, results=tmp_path / "results").stages[1].queries == 200


def test_commands_mean_what_was_planned(tmp_path):
    """Each command goes through its program's own command line, with the checkpoint in place."""
    plan = planned(tmp_path)
    best = plan.stages[0].folder / "checkpoints" / "best.ckpt"
    best.parent.mkdir(parents=True)
    best.write_bytes(digits_checkpoint().read_bytes())
    for stage, program in ((plan.stages[1], AttackCLI), (plan.stages[3], CertifyCLI)):
        (command,) = stage.commands
        assert command[1] == f"{stage.job}.py"
        cli = program(command[2:])
        assert cli.folder == stage.folder and cli.options.group == "paper/table"
        assert cli.options.tags == ["paper", "digits"] and cli.config.checkpoint == str(best)
        assert cli.resolved["data"] == stage.data and cli.resolved["images"] == stage.images
    assert (cli.task.n, cli.task.n0, cli.config.batch_size) == (90, 10, 4)


def test_shards_and_devices_divide_attacks_and_certifications_alone(tmp_path):
    whole, cut = planned(tmp_path), planned(tmp_path, shards=2, devices=4)
    assert hashes(whole) == hashes(cut)
    for one, two in zip(whole.stages, cut.stages, strict=True):
        assert one.folder == two.folder and one.markers == [one.folder / "done"]
        if one.job == "train":
            assert two.commands == one.commands and one.commands[0][-2:] == ["--trainer.devices", "1"]
            continue
        words = [*one.commands[0], "--trainer.devices", "4", "--shard"]
        assert two.commands == [[*words, "1/2"], [*words, "2/2"]]
        assert two.markers == [two.folder / "done.1of2", two.folder / "done.2of2"]
    with pytest.raises(ValueError, match="shards must be at least 1, got 0"):
        planned(tmp_path, shards=0)


def test_a_plan_comes_back_from_its_file(tmp_path):
    plan = planned(tmp_path, shards=2)
    assert plan.write() == tmp_path / "runs" / "plans" / "paper-table-digits.json"
    assert Plan.from_json(json.loads(plan.place.read_text())) == plan


def test_a_class_comes_before_what_is_changed_of_it():
    options = {"attack.mu": 0.1, "attack": "ZONGD", "images.count": None, "config": "a.yaml", "radii": [0, 0.5]}
    assert option_words(options) == [
        *("--config", "a.yaml", "--attack", "ZONGD", "--radii", "[0, 0.5]"),
        *("--attack.mu", "0.1", "--images.count", "null"),
    ]


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("zo", {"budgett": 3}, "stages.zo: unknown option --budgett 3: did you mean --budget?"),
        ("zo", {"budget": "many"}, "stages.zo: budget: expected int, got many"),
        ("zo", {"attack.epsilon": -1}, "stages.zo: epsilon must be > 0 in [0, 1] pixels"),
        ("zo", {"attack": "ZOGND"}, "stages.zo: attack: unknown class 'ZOGND'; known are "),
        ("sure", {"images.count": 0}, "stages.sure: images.count must be at least 1 or null for all, got 0"),
        (
            "victim",
            {"trainer.max_epoch": 3},
            "stages.victim: unknown option --trainer.max_epoch 3: did you mean ",
        ),
        ("victim", {"config": "no.yaml"}, "stages.victim: "),
    ],
)
def test_a_wrong_option_is_told_before_any_work(tmp_path, stage, options, message):
    stages = tiny()["stages"]
    stages[stage]["options"] |= options
    with pytest.raises(ValueError) as told:
        planned(tmp_path, stages=stages)
    assert str(told.value).startswith(f"{tmp_path / 'paper' / 'table.yaml'}: {message}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("attack.muu", "ZO-NGD has no setting attack.muu, did you mean attack.mu? (it has attack.accept, "),
        ("attack.init_args.mu", "ZO-NGD has no setting attack.init_args.mu, did you mean attack."),
        ("seed", "ZO-NGD has no setting seed"),
        ("attack.accept", "attack.accept of ZO-NGD is 'all': only numbers can stand on an axis"),
        ("attack.mu", None),
        ("budget", None),
    ],
)
def test_a_picture_over_no_setting_is_told_before_any_work(tmp_path, over, message):
    pictures = {"p": {"kind": "queries_vs", "rows": ["ZO-NGD"], "over": over}}
    file = written(tmp_path, pictures=pictures)
    experiment = load_experiment(file, "digits")
    if message is None:
        assert len(make_plan(experiment, "digits", file=file, runs=tmp_path / "runs").stages) == 4
        return
    with pytest.raises(ValueError) as told:
        make_plan(experiment, "digits", file=file, runs=tmp_path / "runs")
    assert str(told.value).startswith(f"{file}: pictures.p.over: {message}")
