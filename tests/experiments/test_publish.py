"""Folders under results/, and the blocks of a README."""

import dataclasses
import re

import numpy as np
import pytest

from experiments.checks import check_published, check_readme
from experiments.experiment import Picture, Stage
from experiments.page import fill_blocks, notes_text, read_page
from experiments.pictures import draw_picture, drawn_from, source_hash
from experiments.publish import main, publish, refresh_readme
from experiments.reconstructions import image_text
from tests.experiments.published import attack_experiment, certificate_experiment, read_json, study_experiment
from zeroth.records import file_sha256, merge_records, write_json
from zeroth.records.__main__ import main as show_runs

GREYS = {"original": 0.0, "non-adaptive": 0.2, "adaptive": 0.6}
BLOCK = "# Title\n\n<!-- results: paper/table/digits table -->\nold\n<!-- end of results -->\nrest\n"


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    return publish(*attack_experiment(tmp_path / "runs"), tmp_path / "results")


def test_a_table_is_a_folder_of_files_that_agree(folder, tmp_path):
    assert folder == tmp_path / "results" / "paper" / "table" / "digits"
    assert set(files_of(folder)) == {
        "README.md", "table.md", "experiment.json", "success.png", "over.png", "plain-all.json", "tuned-all.json",
        "records/plain-all.jsonl", "records/tuned-all.jsonl", "tuning/tune.json",
    }  # fmt: skip
    assert check_published(folder) == []
    assert [path.name for path in folder.parent.iterdir()] == ["digits"]  # nothing half-made is left


def test_the_page_shows_title_text_table_notes_and_pictures(folder):
    page = (folder / "README.md").read_text()
    parts = ["# Two attacks\n", "Somebody et al., 2020.", "What is shown.\n", (folder / "table.md").read_text()]
    parts += ["- plain, all: Beware.\n", "![Success](success.png)\n\nSuccess.\n", "![over](over.png)\n"]
    parts += ["python reproduce.py configs/experiment/paper/table.yaml --scale digits\n"]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


@pytest.mark.parametrize("make", [attack_experiment, certificate_experiment])
@pytest.mark.parametrize("parts", [{"shards": 2}, {"ranks": 2}, {"shards": 2, "ranks": 2}])
def test_shards_and_ranks_publish_what_one_process_does(tmp_path, make, parts):
    one, many = (
        publish(*make(tmp_path / name / "runs", **run), tmp_path / name / "results")
        for name, run in (("one", {}), ("many", parts))
    )
    assert set(files_of(one)) == set(files_of(many))
    for name, path in files_of(one).items():
        assert path.read_bytes() == files_of(many)[name].read_bytes(), name


def test_times_are_kept(tmp_path, folder):
    told = merge_records(folder / "records" / "plain-all.jsonl")
    assert told.equals(merge_records(attack_experiment(tmp_path / "again")[1].stages[2].folder))
    assert told["seconds"].tolist() == [1.0] * 4


def test_records_are_read_by_the_command_that_shows_runs(folder, capsys):
    assert show_runs(["show", "--markdown", str(folder / "records" / "plain-all.jsonl")]) == 0
    assert re.search(r"success % +\| +66.7 \[20.8, 93.9\]", capsys.readouterr().out)


def test_a_study_and_certificates_are_published(tmp_path):
    for make in (study_experiment, certificate_experiment):
        published = publish(*make(tmp_path / make.__name__), tmp_path / "results")
        assert check_published(published) == []
    # An experiment outside the checkout is named by its id: its path would be that of a machine.
    assert read_page(published)[0].file == "configs/experiment/paper/certificates.yaml"
    assert "\n- A note.\n" in (tmp_path / "results/paper/study/digits/README.md").read_text()


def test_a_study_stands_beside_the_papers_figures_with_its_images(tmp_path):
    """Figures of one mark are known; the picture shows the true image and what the row made of it, by either attack."""
    shown = {"index": [5], "epsilon": 1.0, "shape": [1, 2, 2]}
    shown |= {name: [image_text(np.full((1, 2, 2), level))] for name, level in GREYS.items()}
    experiment, plan = study_experiment(tmp_path / "runs", examples=shown)
    (row,) = experiment.rows
    experiment = dataclasses.replace(
        experiment,
        rows=[dataclasses.replace(row, reported={"loss": {"0.01": 2.5, "1": None}}, source="Table 5")],
        pictures={"images": Picture("reconstructions", title="Images")},
    )
    folder = publish(experiment, plan, tmp_path / "results")
    assert check_published(folder) == []
    head, _, paper, ours = (folder / "table.md").read_text().splitlines()[:4]
    assert [[word.strip() for word in line.split("|")[1:-1]] for line in (head, paper, ours)] == [
        ["method", "what", "gamma = 0.01", "gamma = 0.1", "gamma = 1"],
        ["loss against gamma", "loss, the paper's", "2.500", "-", "-"],
        ["loss against gamma", "loss", "3.000 [2.000, 4.000]", "2.000 [1.500, 2.500]", "1.000 [1.000, 1.000]"],
    ]
    assert "those of Somebody et al., 2020, on its own victim and images" in (folder / "table.md").read_text()
    picture, cells = read_page(folder)[0].pictures["images"], read_page(folder)[1]
    assert drawn_from(folder / "images.png") == source_hash(picture, cells)
    drawn = [axes.get_images()[0].get_array().mean() for axes in draw_picture(picture, cells, folder).axes]
    assert drawn == pytest.approx([0, 0.2, 0.6])
    (folder / "images.png").unlink()
    assert any("images.png was not drawn from these records" in fault for fault in check_published(folder))


def test_files_of_lines_that_are_gone_are_removed(tmp_path, folder):
    experiment, plan = attack_experiment(tmp_path / "again")
    for name in ("mine.txt", "mine.json", "records/mine.jsonl"):
        (folder / name).write_text("stays")
    fewer = dataclasses.replace(experiment, rows=experiment.rows[:1], pictures={})
    publish(fewer, plan, tmp_path / "results")
    kept = {"README.md", "table.md", "experiment.json", "plain-all.json", "records/plain-all.jsonl"}
    assert set(files_of(folder)) == kept | {"mine.txt", "mine.json", "records/mine.jsonl"}


def test_a_run_that_is_not_complete_leaves_the_old_folder_as_it_was(tmp_path, folder):
    before = {name: path.read_bytes() for name, path in files_of(folder).items()}
    experiment, plan = attack_experiment(tmp_path / "again")
    file = plan.stages[3].folder / "attack.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="stage tuned-all has 3 of 4 rows"):
        publish(experiment, plan, tmp_path / "results")
    assert {name: path.read_bytes() for name, path in files_of(folder).items()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["digits"]


def test_a_run_that_is_not_complete_makes_no_folder(tmp_path):
    experiment, plan = attack_experiment(tmp_path / "runs")
    (plan.stages[3].folder / "attack.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match="stage tuned-all"):
        publish(experiment, plan, tmp_path / "results")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def two_victims(runs, longer, **changed):
    """Certificates of two victims of one name: the second one's train stage, and what is changed of the first."""
    experiment, plan = certificate_experiment(runs)
    other = dataclasses.replace(plan.stages[0], name="longer", hash="f" * 64, folder=runs / "digits-ffffffff")
    weights = other.folder / "checkpoints" / "best.ckpt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"longer")
    header = plan.stages[2].folder / "certificate.header.json"
    write_json(header, read_json(header) | {"checkpoint_sha256": file_sha256(weights)})
    stages = experiment.stages | {"longer": longer}
    stages["victim"] = dataclasses.replace(stages["victim"], **changed)
    stages["sigma0.5"] = dataclasses.replace(experiment.stages["sigma0.5"], victim="longer")
    return dataclasses.replace(experiment, stages=stages), dataclasses.replace(plan, stages=[*plan.stages, other])


def test_one_name_for_two_victims_is_refused(tmp_path):
    """Two train stages have folders, but not names, of their own where only the files of their configs differ."""
    planned = two_victims(tmp_path / "runs", Stage("train", {"config": "elsewhere/digits.yaml"}))
    with pytest.raises(ValueError, match=r"the victim digits has 2 checkpoints or accuracies: .* different names"):
        publish(*planned, tmp_path / "results")


def test_victims_of_one_config_are_named_by_the_models_that_differ(tmp_path):
    experiment, _ = certificate_experiment(tmp_path / "other")
    built = {"model.box": "box", "model.init_args.autoencoder": "wide"}
    longer = Stage("train", dict(experiment.stages["victim"].options), models=built)
    planned = two_victims(tmp_path / "runs", longer, models=built | {"model.init_args.autoencoder": "half"})
    folder = publish(*planned, tmp_path / "results")
    names = [read_json(folder / f"{name}.json")["subject"]["name"] for name in ("sigma0.25", "sigma0.5")]
    assert names == ["digits, model.init_args.autoencoder half", "digits, model.init_args.autoencoder wide"]


def test_a_published_folder_is_drawn_again_from_its_own_files(tmp_path, folder):
    before = {name: path.read_bytes() for name, path in files_of(folder).items()}
    for name in ("README.md", "table.md", "success.png", "over.png"):
        (folder / name).unlink()
    main([str(folder)])
    assert {name: path.read_bytes() for name, path in files_of(folder).items()} == before


def test_blocks_of_a_readme_are_filled_with_their_tables(tmp_path, folder):
    readme = tmp_path / "README.md"
    readme.write_text(BLOCK + BLOCK)
    assert "a results block is not its table.md" in check_readme(readme)[0]
    main(["--readme", str(readme)])
    table = (folder / "table.md").read_text()
    assert readme.read_text() == 2 * BLOCK.replace("old\n", table)
    assert check_readme(readme) == []
    stamp = readme.stat().st_mtime_ns
    refresh_readme(readme)
    assert readme.stat().st_mtime_ns == stamp  # nothing to change, nothing written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BLOCK.replace("paper/table", "paper/none"), "names paper/none/digits, but there is no"),
        (BLOCK.replace("<!-- end of results -->", ""), "1 results blocks begin and 0 are whole"),
        (BLOCK.replace(" table -->", " figure -->"), "1 results blocks begin and 0 are whole"),
        (BLOCK.replace("<!-- end of results -->", "") + BLOCK, "2 results blocks begin and 1 are whole"),
    ],
)
def test_a_faulty_block_is_refused(tmp_path, folder, text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        fill_blocks(text, tmp_path / "results")
    (tmp_path / "README.md").write_text(text)
    assert message in check_readme(tmp_path / "README.md")[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give published folders, or --readme README.md"),
        (["nowhere"], "nowhere is no published table: it has no experiment.json"),
        (["--readme", "nowhere.md"], "nowhere.md"),
    ],
)
def test_the_command_ends_in_one_line(capsys, words, message):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_page_of_another_version_is_refused(folder):
    write_json(folder / "experiment.json", read_json(folder / "experiment.json") | {"schema_version": 0})
    with pytest.raises(ValueError, match=r"experiment.json is no page of this version \(schema_version 0, this"):
        read_page(folder)
    assert "experiment.json is no page of this version" in check_published(folder)[0]


def test_a_damaged_file_names_the_command_that_publishes_it_again(folder):
    remedy = "publish the table again by python reproduce.py configs/experiment/paper/table.yaml --scale digits"
    for name in ("plain-all.json", "experiment.json"):
        (folder / name).write_text("{")
        with pytest.raises(ValueError, match=rf"{name} is damaged \(Expecting .*\): {remedy}"):
            read_page(folder)


def test_a_note_of_all_lines_is_printed_once(folder):
    page, cells = read_page(folder)
    noted = [dataclasses.replace(cell, note="Common.") for cell in cells]
    assert page.readme(noted).count("Common.") == 1 and "\n- Common.\n" in page.readme(noted)
    study = dataclasses.replace(
        cells[0], kind="study", note=None, measured={"reported": "it is so", "notes": ["It was not."]}
    )
    assert notes_text([study]) == "- The paper reports: it is so.\n- It was not.\n"
    other = dataclasses.replace(study, method="other", measured={"notes": ["It was not."]})
    assert notes_text([study, other]) == "- plain, all: The paper reports: it is so.\n- It was not.\n"
