"""Tables in Markdown from cells."""

import dataclasses

import pytest

from experiments.building import build_cell
from experiments.tables import FIRST, SPENT, SUCCESS, WON, attack_table, certificate_table, table_markdown, tuning_text
from tests.experiments.published import attack_experiment, certificate_experiment, study_experiment


def cells_of(made, tmp_path):
    experiment, plan = made
    return [build_cell(experiment, plan, row, tmp_path / "out") for row in experiment.rows]


@pytest.fixture
def attacks(tmp_path):
    return cells_of(attack_experiment(tmp_path / "runs"), tmp_path)


@pytest.fixture
def certificates(tmp_path):
    return cells_of(certificate_experiment(tmp_path / "runs"), tmp_path)


def test_a_line_stands_beside_the_papers(attacks):
    frame = attack_table(attacks)
    # 2 of 3 attacked; Wilson's interval and Student's t of (10, 30) and (12, 30, 100), not below 1 query.
    assert frame.iloc[0].to_dict() == {
        "method": "plain, all",
        WON: "2 / 3",
        SUCCESS: "66.7 [20.8, 93.9]",
        FIRST: "20.0 [1.0, 147.1]",
        SPENT: "47.3 [1.0, 162.8]",
        "median spent": "30",
        "paper: success %": "98.7",
        "paper: queries": "1,243",
        "paper: where": "Table 1",
    }
    assert frame.iloc[1].tolist()[-3:] == ["-", "-", "-"]
    few = dataclasses.replace(attacks[0], reported={"queries_to_success": 2.12})
    assert attack_table([few])["paper: queries"].tolist() == ["2.12"]


def test_columns_of_a_paper_that_reports_nothing_are_left_out(attacks, certificates):
    silent = [dataclasses.replace(cell, reported={}, source=None) for cell in attacks]
    assert list(attack_table(silent)) == ["method", WON, SUCCESS, FIRST, SPENT, "median spent"]
    assert "those of" not in table_markdown("attack", "Somebody, 2020", silent)
    silent = [dataclasses.replace(cell, reported={}, source=None) for cell in certificates]
    assert list(certificate_table(silent)) == ["method", "n", "CA(0) %", "CA(0.25) %", "ACR", "abstain %"]


def test_a_certificate_stands_beside_the_papers(certificates):
    frame = certificate_table(certificates)
    assert frame.iloc[0].to_dict() == {
        "method": "sigma 0.25",
        "n": "4",
        "CA(0) %": "75.0 [19.4, 99.4]",
        "CA(0.25) %": "50.0 [6.8, 93.2]",
        "ACR": "0.150",
        "abstain %": "0.0 [0.0, 60.2]",
        "paper: CA(0.25) %": "60.0",
        "paper: ACR": "0.400",
        "paper: where": "Table 2",
    }
    assert frame.iloc[1].tolist()[-4:] == ["25.0 [0.6, 80.6]", "-", "-", "-"]


def test_the_caption_says_of_what_and_how_sure(attacks, certificates):
    told = table_markdown("attack", "Somebody, 2020", attacks).splitlines()[-1]
    assert told == (
        "4 images of digits (test split, one in 2), attacked where the victim gets them right. "
        "Victim: digits (75.00 % of the test split right). Epsilon 0.2, 0.4 in l_inf, budget 100 queries an image. "
        "Queries to success are means over the images won, queries spent over all attacked. "
        "95 % intervals: Wilson's of rates, Student's t of means. "
        "Tuned lines had 7 trials on 30 images of the train split (seed 5) each. "
        "The paper's figures are those of Somebody, 2020, on its own victim and images. Commit 0123456789."
    )
    unknown = [dataclasses.replace(cell, subject={**cell.subject, "accuracy": None}) for cell in certificates]
    told = table_markdown("certificate", "Somebody, 2019", unknown).splitlines()[-1]
    assert "Noise sigma 0.25, 0.5, n0 = 100, n = 1,000 samples, alpha = 0.001" in told
    assert "Clopper-Pearson" in told
    assert "Victim: digits. " in told


def test_a_caption_does_not_name_a_victim_for_each_of_many_lines(certificates):
    cell = certificates[0]
    many = []
    for number in range(5):
        subject = {**cell.subject, "name": f"net{number}", "accuracy": 0.9 + number / 100}
        many.append(dataclasses.replace(cell, method=f"line {number}", subject=subject))
    told = table_markdown("certificate", "Somebody, 2019", many).splitlines()[-1]
    assert "Victims: a line's file names its own (90.00 to 94.00 % of the test split right). " in told
    told = table_markdown("certificate", "Somebody, 2019", many[:4]).splitlines()[-1]
    assert "net3 (93.00 % of the test split right)" in told


def test_commits_of_all_starts_are_told(attacks):
    first, second = attacks
    later = {
        "commit": "abcdef0123456789+changes",
        "hardware": None,
        "versions": {},
        "python": "3.12",
        "started": "2026",
    }
    mixed = [dataclasses.replace(first, later_starts=[later]), dataclasses.replace(second, commit=None)]
    assert table_markdown("attack", "S", mixed).endswith("Commit 0123456789, abcdef0123 with changes, unknown.\n")


def test_unequal_trials_are_told(attacks):
    _, tuned = attacks
    other = dataclasses.replace(tuned, tuning={**tuned.tuning, "trials": 9})
    assert tuning_text([tuned, tuned]) == "Tuned lines had 7 trials on 30 images of the train split (seed 5) each"
    for attacked, text in ((30, "split (seed 5)"), (28, "split, of which 28 attacked (seed 5)")):
        assert text in tuning_text([dataclasses.replace(tuned, tuning=tuned.tuning | {"attacked": attacked})])
    assert "7 trials on 30 images of the train split (seed 5) or 9 trials on" in tuning_text([other, tuned])


def test_a_study_has_a_caption_alone(tmp_path):
    cells = cells_of(study_experiment(tmp_path / "runs"), tmp_path)
    assert table_markdown("study", "S", cells) == (
        "3 images of digits (test split, one in 2). Victim: digits. "
        "95 % intervals: bootstrap over the images. Commit 0123456789.\n"
    )
