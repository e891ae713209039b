"""Every table under results/, and every block of the README, is what its committed records say."""

import re
import shutil
from pathlib import Path

import pytest

from experiments.checks import check_published, check_readme
from experiments.page import PAGE_FILE, render
from experiments.publish import publish, refresh_readme
from tests.experiments.published import attack_experiment, certificate_experiment, study_experiment

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
# Tables that the repository shows.
PROMISED = [
    *(
        f"zo_ngd/{table}/mnist"
        for table in (
            "table1_mnist",
            "table_a2_mnist",
            "figure2_mnist",
            "whitebox_mnist",
            "table1_cifar10",
            "square_mnist",
            "table1_all_mnist",
        )
    ),
    *(f"zo_ngd/{table}/mnist" for table in ("figure_a2a_mnist", "figure_a2b_mnist")),
    *(
        f"zoo_ead/{table}/mnist"
        for table in (
            "table1_mnist",
            "table5_mnist",
            "table6_mnist",
            "table8_mnist",
            "figure6_mnist",
            "whitebox_tuned_mnist",
        )
    ),
    "zoo_ead/table1_mnist/digits",
    *(
        f"zo_ae_ds/{table}/digits"
        for table in (
            "table1_cifar10",
            "table2_cifar10",
            "table4_cifar10",
            "table5_mnist",
            "tablea1_cifar10",
            "tablea2_cifar10",
            "tablea3_cifar10",
            "gamma",
            "seeds_cifar10",
        )
    ),
    "zo_ae_ds/equal_queries_cifar10/mnist",
    "zo_ae_ds/table5_mnist/mnist",
    *(
        f"sign_opt/{table}/mnist"
        for table in (
            "table1_mnist",
            "table1_cifar10",
            "small_budgets_mnist",
            "figure4_mnist",
            "linf_mnist",
            "peers_mnist",
            "seeds_mnist",
            "figure5_mnist",
            "figure2_mnist",
            "figure7_mnist",
            "figure5b_mnist",
        )
    ),
    "zo_l2l/fig2_small_mnist/mnist",
    "zo_l2l/meta_gradients_digits/digits",
    *(f"zo_l2l/{table}/digits" for table in ("fig4d_mnist", "fig8_mnist", "fig9_mnist", "fig10_mnist", "table1_mnist")),
    "zo_l2l/fig3_synthetic/mnist",
    "zo_l2l/shipped_mnist/mnist",
    "zo_l2l/shipped_mnist/digits",
    "cohen/mnist/mnist",
]
# Folders that begin with a dot are those of a publishing that was killed.
PUBLISHED = sorted(path.parent for path in RESULTS.glob(f"[!.]*/[!.]*/[!.]*/{PAGE_FILE}"))


@pytest.mark.skipif(not RESULTS.exists(), reason="a package without its results")
@pytest.mark.parametrize("table", PROMISED)
def test_a_promised_table_is_there(table):
    assert RESULTS / table in PUBLISHED


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_a_published_table_is_what_its_records_say(folder):
    assert check_published(folder) == []


@pytest.mark.parametrize("page", ["README.md", "results/README.md"])
def test_the_readmes_show_the_published_tables(page):
    assert check_readme(ROOT / page) == []


def test_the_page_of_results_leads_to_every_published_table():
    text = (RESULTS / "README.md").read_text()
    named = set(re.findall(r"(?:results: |]\()([\w/]+?)(?: table|/README\.md\))", text))
    assert sorted({folder.relative_to(RESULTS).as_posix() for folder in PUBLISHED} - named) == []


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Two published tables and a README that shows one of them."""
    place = tmp_path_factory.mktemp("published")
    for make in (attack_experiment, certificate_experiment, study_experiment):
        publish(*make(place / make.__name__), place / "results")
    (place / "README.md").write_text("<!-- results: paper/table/digits table -->\n<!-- end of results -->\n")
    refresh_readme(place / "README.md")
    return place


@pytest.fixture
def copy(originals, tmp_path):
    shutil.copytree(originals / "results", tmp_path / "results")
    shutil.copy(originals / "README.md", tmp_path)
    return tmp_path


def faults(place):
    folders = [path.parent for path in sorted((place / "results").rglob(PAGE_FILE))]
    return [fault for folder in folders for fault in check_published(folder)] + check_readme(place / "README.md")


def change(path, pattern, replacement):
    text = path.read_text()
    changed = re.sub(pattern, replacement, text, count=1)
    assert changed != text
    path.write_text(changed)


def test_what_was_just_published_has_no_fault(copy):
    assert faults(copy) == []


@pytest.mark.parametrize(
    ("file", "pattern", "replacement", "fault"),
    [
        ("table/digits/table.md", "66.7", "67.7", "is not what the cells say"),
        ("table/digits/README.md", "66.7", "67.7", "is not what the cells say"),
        ("table/digits/README.md", "Beware", "beware", "is not what the cells say"),
        ("table/digits/records/plain-all.jsonl", '"queries": 12', '"queries": 13', "not the file that plain-all.json"),
        ("table/digits/records/plain-all.jsonl", '"seconds": 1.0', '"seconds": 1.5', "is not the file"),
        ("table/digits/records/plain-all.jsonl", '"index": 3', '"index": x', "cannot be read"),
        ("table/digits/tuning/tune.json", '"trials": 7', '"trials": 8', "is not the file that tuned-all.json"),
        ("table/digits/plain-all.json", '"n_success": 2', '"n_success": 3', "measured.n_success is not what"),
        ("table/digits/plain-all.json", '"low": 0.2', '"low": 0.3', "measured.clean_accuracy|success_rate.low"),
        ("table/digits/plain-all.json", '"queries": 143', '"queries": 144', "queries is not what"),
        ("table/digits/plain-all.json", '"count": 4', '"count": 5', "images.count is not what"),
        ("table/digits/plain-all.json", '"seed": 3', '"seed": 4', "seed is not what"),
        ("table/digits/plain-all.json", 'epsilon": 0.4', 'epsilon": 0.5', "config.settings.attack.init_args.epsilon"),
        ("table/digits/plain-all.json", 'point_sha256": "..', 'point_sha256": "zz', "subject.checkpoint_sha256 is not"),
        ("table/digits/plain-all.json", 'point_sha256": "..', 'point_sha256": "zz', "victim digits has 2 checkpoints"),
        ("table/digits/plain-all.json", '"accuracy": 0.75', '"accuracy": 0.76', "the victim digits has 2 checkpoints"),
        ("table/digits/plain-all.json", '"split": "test"', '"split": "val"', "images.split is not what"),
        ("table/digits/plain-all.json", '"start": 0', '"start": 1', "images.start is not what"),
        ("table/digits/plain-all.json", '"stride": 2', '"stride": 3', "images.stride is not what"),
        ("table/digits/plain-all.json", '"dataset": "digits"', '"dataset": "MNIST"', "dataset is not what"),
        ("table/digits/plain-all.json", '"norm": "linf"', '"norm": "l2"', "norm is not what"),
        ("table/digits/plain-all.json", '"scale": "digits"', '"scale": "mnist"', "scale is not what"),
        ("table/digits/tuned-all.json", '"trials": 7', '"trials": 8', "tuning.trials is not what tuning/tune.json"),
        ("table/digits/tuned-all.json", '"seed": 5', '"seed": 6', "tuning.seed is not what"),
        ("table/digits/tuned-all.json", "mean queries", "median distance", "tuning.objective is not what"),
        ("table/digits/tuned-all.json", '"images": 30', '"images": 40', "tuning.images is not what"),
        ("table/digits/tuned-all.json", '"split": "train"', '"split": "test"', "tuning.split is not what"),
        ("study/digits/gamma.json", '"seed": 3,\n "queries"', '"seed": 4,\n "queries"', "seed is not what"),
        ("study/digits/gamma.json", 'point_sha256": "..', 'point_sha256": "zz', "subject.checkpoint_sha256 is not"),
        ("study/digits/gamma.json", '"iterations": 2(?=\n  }\n)', '"iterations": 3', "config.settings.iterations is"),
        ("study/digits/gamma.json", '3,\n  "start": 0', '3,\n  "start": 1', ": images.start is not what"),
        ("table/digits/plain-all.json", "Beware", "/home/somebody/x", "tells a path of a machine, note: /home"),
        ("certificates/digits/records/sigma0.5.tsv", "0.2999", "0.2998", "is not the file that sigma0.5.json"),
        ("certificates/digits/records/sigma0.5.header.json", '"seed": 3', '"seed": 4', "seed is not what"),
        ("certificates/digits/sigma0.5.json", '"acr": 0.1', '"acr": 0.2', "measured.acr is not what"),
        ("certificates/digits/experiment.json", r"0\.25", "0.26", "certified_accuracy"),
    ],
)  # fmt: skip
def test_a_changed_digit_is_found_and_its_file_named(copy, file, pattern, replacement, fault):
    path = copy / "results" / "paper" / file
    change(path, pattern, replacement)
    found = faults(copy)
    # Of a header beside a TSV, and of a page, the cells that are made from them are named.
    named = path.parents[1] / "sigma0.5.json" if ".header." in path.name else path
    named = path.parent / "sigma0.25.json" if path.name == PAGE_FILE else named
    named = path.parent / PAGE_FILE if "victim" in fault else named  # of the cells of one table together
    assert any(line.startswith(str(named)) and re.search(fault, line) for line in found), found


def test_a_changed_block_of_the_readme_is_found(copy):
    change(copy / "README.md", "66.7", "67.7")
    assert [line.split(":")[0] for line in faults(copy)] == [str(copy / "README.md")]


def test_a_cell_whose_table_was_made_again_still_betrays_its_records(copy):
    """A lie told consistently, in cell, table and README, is found by the records."""
    folder = copy / "results" / "paper" / "table" / "digits"
    change(folder / "plain-all.json", r'"value": 0.66\d+', '"value": 0.99')
    render(folder)
    refresh_readme(copy / "README.md")
    (fault,) = faults(copy)
    assert fault.startswith(f"{folder / 'plain-all.json'}: measured.success_rate.value is not what")


@pytest.mark.parametrize(
    "name",
    ["success.png", "table.md", "README.md", "plain-all.json", "records/plain-all.jsonl", "tuning/tune.json"],
)
def test_a_missing_file_is_named(copy, name):
    path = copy / "results" / "paper" / "table" / "digits" / name
    path.unlink()
    assert any(str(path) in fault for fault in faults(copy))


def test_a_picture_of_other_records_is_found(copy):
    folder = copy / "results" / "paper" / "table" / "digits"
    shutil.copy(folder / "over.png", folder / "success.png")
    (fault,) = faults(copy)
    assert fault.startswith(f"{folder / 'success.png'} was not drawn from these records")


@pytest.mark.parametrize("name", ["old.json", "old.png", "records/old.jsonl"])
def test_a_file_of_no_line_is_found(copy, name):
    path = copy / "results" / "paper" / "table" / "digits" / name
    path.write_text("{}")
    assert faults(copy) == [f"{path} belongs to no line of the table"]
