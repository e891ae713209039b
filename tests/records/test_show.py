"""python -m zeroth.records show: one table of several runs, and where their pictures lie."""

from zeroth.records.__main__ import main, runs_frame
from zeroth.records.json_io import write_json
from zeroth.records.reading import record_path
from zeroth.records.schema import AttackRecord, CertificateRecord, RecordHeader
from zeroth.records.store import RecordFile


def attack_run(folder):
    """Four images: wrong from the start, found after 10 and after 20 queries, not found in 90."""
    found = {"label": 0, "target": None, "predicted": 1, "success": True, "l0": 3, "l1": 0.5, "l2": 0.3, "linf": 0.2}
    lost = {
        "label": 0,
        "target": None,
        "success": False,
        "l0": None,
        "l1": None,
        "l2": None,
        "linf": None,
        "seconds": 1.0,
    }
    with RecordFile(record_path(folder, "attack"), RecordHeader(kind="attack", config={}, seed=0)) as file:
        file.append(
            AttackRecord(index=0, predicted=1, queries=1, queries_to_success=-1, fail_reason="misclassified", **lost)
        )
        for index, queries in ((1, 10), (2, 20)):
            file.append(AttackRecord(index=index, queries=queries, queries_to_success=queries, seconds=1.0, **found))
        file.append(AttackRecord(index=3, predicted=0, queries=90, queries_to_success=-1, fail_reason="budget", **lost))


def certificate_run(folder):
    """Four images: right with radius .3 and .6, wrong with .9, abstained."""
    with RecordFile(record_path(folder, "certificate"), RecordHeader(kind="certificate", config={}, seed=0)) as file:
        for idx, predict, radius in ((0, 5, 0.3), (1, 5, 0.6), (2, 4, 0.9), (3, -1, 0.0)):
            file.append(
                CertificateRecord(idx=idx, label=5, predict=predict, radius=radius, correct=predict == 5, time=1.0)
            )


def test_runs_of_both_kinds_stand_in_one_table(tmp_path):
    attack_run(tmp_path / "attack" / "a")
    certificate_run(tmp_path / "certify" / "b")
    table = runs_frame([tmp_path / "attack" / "a", tmp_path / "certify" / "b"]).set_index("")
    attack, certificate = table["attack\na"], table["certify\nb"]
    assert (attack["n"], certificate["n"]) == ("4", "4")
    assert attack["clean %"].startswith("75.0 [")
    assert attack["success %"].startswith("66.7 [")
    assert attack["robust %"].startswith("25.0 [")
    assert attack["queries"] == "40 (median 20)"
    assert attack["to success"] == "15 (median 15)"
    assert attack["ACR"] == certificate["queries"] == "-"
    assert certificate["CA(0.25) %"].startswith("50.0 [")
    assert certificate["CA(0.5) %"].startswith("25.0 [")
    assert certificate["CA(0.75) %"].startswith("0.0 [")
    assert certificate["ACR"] == "0.225"
    assert certificate["abstain %"].startswith("25.0 [")


def test_show_prints_the_table_and_names_pictures_and_wandb(tmp_path, capsys):
    folder = tmp_path / "attack" / "a"
    attack_run(folder)
    (folder / "curve.png").touch()
    (folder / "wandb").mkdir()
    assert main(["show", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "40 (median 20)" in out
    assert f"picture  {folder / 'curve.png'}\n" in out
    assert f"W&B      {folder / 'wandb'}\n" in out
    assert main(["show", "--markdown", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("attack a |")
    assert all(line.startswith("| ") and line.count("|") == 3 for line in lines)


def test_the_distance_is_that_of_the_attack(tmp_path):
    for name, norm in (("a", "l2"), ("b", None), ("c", "l1")):
        attack_run(tmp_path / "attack" / name)
        if norm:
            write_json(tmp_path / "attack" / name / "report.json", {"norm": norm})
    table = runs_frame([tmp_path / "attack" / name for name in "abc"]).set_index("")
    assert table["attack\na"][["l2 median", "linf median", "l1 median"]].tolist() == ["0.3", "-", "-"]
    assert table["attack\nb"][["l2 median", "linf median", "l1 median"]].tolist() == ["-", "0.2", "-"]  # no report yet
    assert table["attack\nc"][["l2 median", "linf median", "l1 median"]].tolist() == ["-", "-", "0.5"]


def test_a_table_in_a_file_is_not_cut(tmp_path, capsys):
    folders = [tmp_path / "attack" / f"of_a_long_name_{number}" for number in range(6)]
    for folder in folders:
        attack_run(folder)
    assert main(["show", *map(str, folders)]) == 0
    out = capsys.readouterr().out
    assert all(folder.name in out for folder in folders) and "\u2026" not in out


def test_a_folder_without_records_is_named(tmp_path, capsys):
    assert main(["show", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith(f"error: no attack or certificate records in {tmp_path}\n")
    assert main(["show", str(tmp_path / "nothing")]) == 2
    assert f"{tmp_path / 'nothing'} does not exist: give a run folder" in capsys.readouterr().err
