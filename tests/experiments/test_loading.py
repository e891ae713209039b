"""Experiment files: what a variable becomes, what defaults do, and what a wrong file is told."""

import re
from pathlib import Path

import pytest
import yaml

from experiments.experiment import Experiment
from experiments.loading import load_experiment
from tests.experiments.tiny import tiny, written

WITH_A_STUDY = {**tiny()["stages"], "curve": {"job": "study", "study": "damping", "victim": "victim"}}


def loaded(tmp_path: Path, **changes) -> Experiment:
    return load_experiment(written(tmp_path, **changes), "digits")


def test_a_variable_alone_keeps_its_type_and_in_text_is_written_out(tmp_path):
    stages = tiny()["stages"]
    stages["zo"]["options"] |= {"attack.epsilon": "{radius}", "run_note": "at {radius} of {images}", "data": None}
    rows = [{"method": "ZO-NGD at {radius}", "stage": "zo", "note": "{images} images"}]
    experiment = loaded(tmp_path, stages=stages, rows=rows, pictures={})
    options = experiment.stages["zo"].options
    assert options["attack.epsilon"] == 0.25 and isinstance(options["attack.epsilon"], float)
    assert options["images.count"] == 12 and isinstance(options["images.count"], int)
    assert options["run_note"] == "at 0.25 of 12"
    assert (experiment.rows[0].method, experiment.rows[0].note) == ("ZO-NGD at 0.25", "12 images")
    assert experiment.scales["digits"]["radius"] == 0.25  # the variables themselves stay


def test_a_class_among_the_options_is_text_for_its_stage(tmp_path):
    stages, told = tiny()["stages"], {"class_path": "zeroth.estimators.RGE", "init_args": {"q": "{images}", "mu": 0.1}}
    stages["zo"]["options"]["rule.estimator"] = told
    experiment = loaded(tmp_path, stages=stages, pictures={})
    expected = {"class_path": "zeroth.estimators.RGE", "init_args": {"q": 12, "mu": 0.1}}
    assert experiment.stages["zo"].options["rule.estimator"] == expected


def test_the_options_of_a_stage_win_over_the_defaults_of_its_job(tmp_path):
    stages = loaded(tmp_path).stages
    assert stages["zo"].options["budget"] == 60 and stages["nes"].options["budget"] == 40
    assert "budget" not in stages["victim"].options
    assert list(stages) == ["victim", "zo", "nes", "sure"]


def test_a_row_of_another_scale_is_left_out_with_its_stages_and_its_part_of_the_pictures(tmp_path):
    stages = tiny()["stages"]
    other = {"other": {"job": "train", "options": {"config": "configs/victim/digits_noise.yaml"}}}
    stages = other | stages | {"nes": {**stages["nes"], "victim": "other"}}
    changes = {
        "stages": stages,
        "scales": {**tiny()["scales"], "paper": tiny()["scales"]["digits"]},
        "dataset": {"digits": "digits", "paper": "digits"},
        "text": "Two attacks.",
        "rows": [{"method": "ZO-NGD", "stage": "zo"}, {"method": "NES", "stage": "nes", "scales": ["paper"]}],
        "pictures": {
            "both": {"kind": "success", "rows": ["NES", "ZO-NGD"]},
            "all": {"kind": "success"},
            "nes": {"kind": "success", "rows": ["NES"]},
        },
    }
    small = loaded(tmp_path, **changes)
    assert [row.method for row in small.rows] == ["ZO-NGD"]
    # The certificate is no row's stage: it stays. The victim of NES alone goes with it.
    assert list(small.stages) == ["victim", "zo", "sure"]
    assert {name: picture.rows for name, picture in small.pictures.items()} == {"both": ["ZO-NGD"], "all": []}
    assert small.text == "Two attacks. At this scale without NES."
    whole = load_experiment(written(tmp_path, **changes), "paper")
    assert [row.method for row in whole.rows] == ["ZO-NGD", "NES"] and "other" in whole.stages
    assert list(whole.pictures) == ["both", "all", "nes"] and whole.text == "Two attacks."


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        (["mnist"], "rows[0].scales: 'mnist' is no scale of this file, which has digits, paper"),
        (["cifar"], "rows[0].scales: expected one of 'digits', 'mnist', 'paper', got cifar"),
        (["paper"], "rows: none is left at scale digits: name it in the scales of one, or leave out scales"),
    ],
)
def test_a_wrong_scale_of_a_row_is_told(tmp_path, scales, message):
    given = {**tiny()["scales"], "paper": {}}
    with pytest.raises(ValueError, match=re.escape(message)):
        loaded(tmp_path, scales=given, rows=[{"method": "a", "stage": "zo", "scales": scales}], pictures={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bogus": 3}, "unknown key bogus (Experiment takes title, paper,"),
        ({"titel": "x", "title": None}, "unknown key titel, did you mean title?"),
        ({"kind": "atack"}, "kind: expected one of 'attack', 'certificate', 'study', got atack"),
        ({"stages": 3}, "stages must map names to Stages, got 3"),
        ({"scales": {"digit": {}}}, "scales: 'digit' is no scale: it must be one of digits, mnist, paper"),
        ({"scales": {"mnist": {}}}, "scales has no 'digits': give --scale mnist"),
        (
            {"text": "all {image}"},
            "text: 'all {image}' names the unknown variable 'image'; scale digits has images",
        ),
        ({"dataset": {"mnist": "MNIST"}}, "dataset does not say which dataset scale digits is on"),
        ({"defaults": {"atack": {}}}, "defaults: 'atack' is no job: it must be one of train, tune, attack,"),
        ({"rows": [{"method": "a", "stage": "sure"}]}, "rows[0].stage: 'sure' is no attack stage; those are: zo, nes"),
        ({"rows": [{"method": "a", "stag": "zo"}]}, "unknown key rows[0].stag, did you mean stage?"),
        ({"rows": [{"method": "a"}]}, "rows[0].stage is missing: Row needs it"),
        ({"rows": [{"method": 3, "stage": "zo"}]}, "rows[0].method: expected str, got 3"),
        ({"rows": [{"method": m, "stage": "zo"} for m in "ab"]}, "rows[1].stage: 'zo' has a row already"),
        ({"pictures": {"p": {"kind": "success", "rows": ["b"]}}}, "pictures.p.rows: no row has the method 'b'"),
        (
            {"pictures": {"p": {"kind": "success_vs"}}},
            "pictures.p.over: kinds success_vs, queries_vs, lines, figures, losses, an",
        ),
        (
            {"pictures": {"p": {"kind": "certified"}}},
            "pictures.p.kind: 'certified' does not fit a table of kind attack, which has success, success_vs,",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_file_is_told_the_field_the_value_and_the_remedy(tmp_path, change, message):
    path = written(tmp_path, **change)
    with pytest.raises(ValueError) as told:
        load_experiment(path, "digits")
    assert str(told.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("kind", "reported", "message"),
    [
        ("attack", {"success_rate": 0.5, "queries_to_success": 3.5}, None),
        ("attack", {"success_rate": None}, None),
        ("attack", {"succes_rate": 1}, "unknown key {}.succes_rate, did you mean success_rate? (a row of kind attack "),
        (
            "attack",
            {"acr": 0.5},
            "unknown key {}.acr (a row of kind attack takes success_rate, queries_to_success, l1, ",
        ),
        ("attack", {"success_rate": 98.7}, "{}.success_rate must be a fraction from 0 to 1, got 98.7"),
        ("attack", {"success_rate": "98 %"}, "{}.success_rate must be a fraction from 0 to 1, got '98 %'"),
        ("attack", {"queries_to_success": -1}, "{}.queries_to_success must be a number >= 0, got -1"),
        ("certificate", {"certified_accuracy": {"0": 1, "0.25": 0.5, "0.5": None}, "acr": 1.5}, None),
        ("certificate", {"certified_accuracy": {"0.25": 50}}, "{}.certified_accuracy.0.25 must be a fraction"),
        ("certificate", {"certified_accuracy": {"r": 0.5}}, "{}.certified_accuracy: a radius is a number in quotes"),
        ("certificate", {"certified_accuracy": {0.25: 0.5}}, "{}.certified_accuracy: a radius is a number in quotes"),
        ("certificate", {"certified_accuracy": 0.5}, "{}.certified_accuracy must map radii to fractions, got 0.5"),
        ("study", {"RMSE": {"0": 0.5, "1e-06": None}}, None),
        ("study", {"RMSE": 0.5}, "{}.RMSE must map marks to numbers, got 0.5"),
        ("study", {"RMSE": None}, "{}.RMSE must map marks to numbers, got None"),
        ("study", {"RMSE": {1: 0.5}}, "{}.RMSE: a mark is a number in quotes, as on its axis, e.g. '0.5', got 1"),
        ("study", {"RMSE": {"1": "low"}}, "{}.RMSE.1 must be a number >= 0, got 'low'"),
    ],
)
def test_the_papers_figures_are_checked(tmp_path, kind, reported, message):
    row = {"method": "a", "stage": {"attack": "zo", "certificate": "sure", "study": "curve"}[kind]}
    path = written(tmp_path, kind=kind, rows=[row | {"reported": reported}], pictures={}, stages=WITH_A_STUDY)
    if message is None:
        assert load_experiment(path, "digits").rows[0].reported == reported
        return
    with pytest.raises(ValueError) as told:
        load_experiment(path, "digits")
    assert str(told.value).startswith(f"{path}: {message.format('rows[0].reported')}")


def test_reconstructions_are_pictured_of_their_study_alone(tmp_path):
    stages = {**WITH_A_STUDY, "errors": {"job": "study", "study": "reconstruction", "victim": "victim"}}
    rows = [{"method": "a curve", "stage": "curve"}, {"method": "errors", "stage": "errors"}]
    told = {"kind": "study", "rows": rows, "stages": stages}
    picture = {"kind": "reconstructions", "rows": ["errors"]}
    assert loaded(tmp_path, **told, pictures={"p": picture}).pictures["p"].rows == ["errors"]
    with pytest.raises(ValueError, match=r"pictures\.p\.rows: .* which 'a curve' is none of: name those"):
        loaded(tmp_path, **told, pictures={"p": {"kind": "reconstructions"}})


def test_losses_are_pictured_of_their_study_alone_over_iterations_or_queries(tmp_path):
    stages = {**WITH_A_STUDY, "sgd": {"job": "study", "study": "optimization", "victim": "victim"}}
    rows = [{"method": "a curve", "stage": "curve"}, {"method": "SGD", "stage": "sgd"}]
    told = {"kind": "study", "rows": rows, "stages": stages}
    for picture in ({"kind": "losses", "over": "queries"}, {"kind": "figures", "over": "rule.delta"}):
        assert loaded(tmp_path, **told, pictures={"p": {**picture, "rows": ["SGD"]}}).pictures["p"].rows == ["SGD"]
        with pytest.raises(
            ValueError, match=r"whose stages have study: optimization or similarity or synthetic, which 'a curve' is"
        ):
            loaded(tmp_path, **told, pictures={"p": picture})
    with pytest.raises(ValueError, match=r"pictures\.p\.over: losses are over iterations or queries, got 'time'"):
        loaded(tmp_path, **told, pictures={"p": {"kind": "losses", "over": "time", "rows": ["SGD"]}})
    with pytest.raises(ValueError, match=r"pictures\.p\.over: kinds .*, losses, and no other, need it"):
        loaded(tmp_path, **told, pictures={"p": {"kind": "losses", "rows": ["SGD"]}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": "SGD", "of": "final loss"}, None),
        (
            {"row": "SGD", "of": "l2"},
            r"rows\[0\]\.ratio_to\.of: 'l2' does not fit a table of kind study, which has f",
        ),
        ({"row": "LSTM", "of": "final loss"}, r"rows\[0\]\.ratio_to\.row: 'LSTM' is no other row's method"),
        (
            {"row": "a curve", "of": "final loss"},
            r"rows\[0\]\.ratio_to: .* study: optimization or similarity or synthetic, which 'a curve'",
        ),
        ({"row": "SGD", "of": "loss"}, r"rows\[0\]\.ratio_to: .*loss"),
    ],
)
def test_a_ratio_of_studies_is_of_a_figure_of_optimizers(tmp_path, change, message):
    study = {"job": "study", "study": "optimization", "victim": "victim"}
    stages = {**WITH_A_STUDY, "sgd": study, "lstm": study}
    rows = [{"method": method, "stage": stage} for method, stage in (("LSTM", "lstm"), ("SGD", "sgd"))]
    rows = [rows[0] | {"ratio_to": change}, rows[1], {"method": "a curve", "stage": "curve"}]
    told = {"kind": "study", "rows": rows, "stages": stages, "pictures": {}}
    if message is None:
        assert loaded(tmp_path, **told).rows[0].ratio_to.of == "final loss"
        return
    with pytest.raises(ValueError, match=message):
        loaded(tmp_path, **told)


def test_a_ratio_of_attacks_is_of_distances(tmp_path):
    rows = [
        {"method": "a", "stage": "zo", "ratio_to": {"row": "b", "of": "final loss"}},
        {"method": "b", "stage": "nes"},
    ]
    with pytest.raises(
        ValueError, match=r"ratio_to\.of: 'final loss' does not fit a table of kind attack, which has l"
    ):
        loaded(tmp_path, rows=rows, pictures={})


def test_the_study_of_synthetic_problems_has_no_victim(tmp_path):
    stage = {"job": "study", "study": "synthetic"}
    told = {"kind": "study", "rows": [{"method": "SGD", "stage": "sgd"}], "pictures": {}}
    stages = {**tiny()["stages"], "sgd": stage}
    assert loaded(tmp_path, **told, stages=stages).stages["sgd"].victim is None
    with pytest.raises(ValueError, match=r"stages\.sgd\.victim 'victim' has no use here"):
        loaded(tmp_path, **told, stages={**stages, "sgd": stage | {"victim": "victim"}})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("zo", {"jobs": "x"}, "unknown key stages.zo.jobs, did you mean job? (Stage takes job, options, victim,"),
        (
            "zo",
            {"job": "atack"},
            "stages.zo.job: expected one of 'train', 'tune', 'attack', 'certify', 'study', ",
        ),
        ("zo", {"victim": "nes"}, "stages.zo.victim: 'nes' is no train stage before this one; those are: victim"),
        ("zo", {"victim": None}, "stages.zo.victim must name a train stage"),
        ("victim", {"victim": "zo"}, "stages.victim.victim 'zo' has no use here"),
        ("zo", {"tuned": "sure"}, "stages.zo.tuned: 'sure' is no tune stage before this one; those are: none"),
        ("zo", {"study": "damping"}, "stages.zo.study: a stage of job study, and no other, names a module, got 'damp"),
        ("zo", {"options": {"run.name": "x"}}, "stages.zo: option run.name is for reproduce.py to give, not for the"),
        ("all", {"job": "train"}, "stages.all: a stage is named by letters, digits, '_', '-' and '.', and not 'all'"),
        ("a/b", {"job": "train"}, "stages.a/b: a stage is named by letters"),
    ],
)
def test_a_wrong_stage_is_told(tmp_path, name, change, message):
    stages = tiny()["stages"]
    stages[name] = stages.get(name, {}) | change
    path = written(tmp_path, stages=stages)
    with pytest.raises(ValueError) as told:
        load_experiment(path, "digits")
    assert str(told.value).startswith(f"{path}: {message}")


def test_a_tuned_stage_takes_no_attack_of_its_own(tmp_path):
    stages = tiny()["stages"]
    tune = {"tune": {"job": "tune", "victim": "victim", "options": {"attack": "NESPGD"}}}
    stages = {"victim": stages["victim"], **tune, **stages}
    stages["zo"] |= {"tuned": "tune"}
    with pytest.raises(ValueError, match=r"stages.zo: its attack is the one that tune tunes: leave out the option"):
        loaded(tmp_path, stages=stages)
    del stages["zo"]["options"]["attack"]
    assert loaded(tmp_path, stages=stages).stages["zo"].tuned == "tune"


def test_a_missing_file_and_one_that_is_no_yaml_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.yaml does not exist: give a file of configs/experiment"):
        load_experiment(tmp_path / "no.yaml", "digits")
    (tmp_path / "bad.yaml").write_text("stages: {a")
    with pytest.raises(ValueError, match=r"bad\.yaml is no YAML: "):
        load_experiment(tmp_path / "bad.yaml", "digits")
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([1]))
    with pytest.raises(ValueError, match=r"list\.yaml: an experiment is a mapping with the keys title, paper, .*, got"):
        load_experiment(tmp_path / "list.yaml", "digits")
