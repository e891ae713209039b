"""lineage.json: what a resumed run says of its starts, and what checkpoints built on it read."""

import json

import pytest

from callbacks.lineage import parent_of, settings_hash, write_lineage
from cli.folders import refuse_other_settings
from zeroth.records.schema import file_sha256

SETTINGS = {"budget": 400, "attack": {"epsilon": 0.2}}


def start(commit="a" * 40, cores=2, started="2026-01-01T00:00:00+00:00", command=("attack.py",)):
    return {
        "commit": commit,
        "hardware": {"processor": "A CPU", "cores": cores, "memory_gib": 16.0, "gpus": []},
        "versions": {"torch": "2.11.0"},
        "python": "3.11.7",
        "command": list(command),
        "started": started,
    }


def read(folder):
    return json.loads((folder / "lineage.json").read_text())


def test_the_first_start_stands_at_the_top(tmp_path):
    told = write_lineage(tmp_path, "attack", SETTINGS, [{"sha256": "c" * 64}], start=start())
    assert read(tmp_path) == told
    assert told == {
        "job": "attack",
        "name": tmp_path.name,
        "config_hash": settings_hash(SETTINGS),
        "parents": [{"sha256": "c" * 64}],
        **start(),
        "starts": [start()],
        "settings": SETTINGS,
    }


def test_a_later_start_adds_what_differs_and_overwrites_nothing(tmp_path):
    starts = [start(), start("b" * 40), start("b" * 40, cores=64)]
    write_lineage(tmp_path, "attack", SETTINGS, start=starts[0])
    write_lineage(tmp_path, "attack", SETTINGS, start=start(started="2026-01-02T00:00:00+00:00", command=["again"]))
    assert read(tmp_path)["starts"] == starts[:1]
    for other in (*starts[1:], starts[0]):
        write_lineage(tmp_path, "attack", SETTINGS, start=other)
    told = read(tmp_path)
    assert told["starts"] == starts
    assert {key: told[key] for key in start()} == start()


def test_the_end_of_a_training_adds_its_checkpoints_to_its_own_start(tmp_path):
    write_lineage(tmp_path, "train-victim", SETTINGS, start=start())
    write_lineage(tmp_path, "train-victim", SETTINGS, start=start(), checkpoints={"best": {"sha256": "d" * 64}})
    told = read(tmp_path)
    assert (told["checkpoints"], told["starts"]) == ({"best": {"sha256": "d" * 64}}, [start()])


def test_a_folder_begun_before_starts_were_kept_says_what_it_can(tmp_path):
    kept = {"job": "attack", "name": "x", "config_hash": settings_hash(SETTINGS), "parents": [], "command": ["old.py"]}
    kept |= {"python": "3.11.7", "versions": {"torch": "2.11.0"}, "settings": SETTINGS}
    (tmp_path / "lineage.json").write_text(json.dumps(kept))
    told = write_lineage(tmp_path, "attack", SETTINGS, start=start())
    unknown = {"commit": None, "hardware": None, "started": None}
    assert told["starts"] == [start() | unknown | {"command": ["old.py"]}, start()]
    assert (told["commit"], told["command"]) == (None, ["old.py"])


def test_other_settings_have_a_history_of_their_own(tmp_path):
    write_lineage(tmp_path, "attack", SETTINGS, start=start("b" * 40))
    told = write_lineage(tmp_path, "attack", SETTINGS | {"budget": 500}, start=start())
    assert told["starts"] == [start()]


def test_without_a_description_the_start_is_this_one(tmp_path):
    told = write_lineage(tmp_path, "attack", SETTINGS)
    assert told["starts"] == [{key: told[key] for key in start()}]
    assert told["hardware"]["cores"] >= 1


@pytest.mark.parametrize("beside", [True, False], ids=["with lineage", "alone"])
def test_a_parent_is_its_hash_and_its_run(tmp_path, beside):
    checkpoint = tmp_path / "run" / "checkpoints" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    expected = {"path": str(checkpoint), "sha256": file_sha256(checkpoint)}
    if beside:
        write_lineage(tmp_path / "run", "train-victim", SETTINGS, start=start())
        expected |= {"job": "train-victim", "name": "run", "config_hash": settings_hash(SETTINGS), "parents": []}
    assert parent_of(checkpoint) == expected


def test_a_damaged_lineage_is_named_with_the_remedy(tmp_path):
    (tmp_path / "lineage.json").write_text('{"job": ')
    (tmp_path / "checkpoints").mkdir()
    best = tmp_path / "checkpoints" / "best.ckpt"
    best.touch()
    for read in (
        lambda: write_lineage(tmp_path, "attack", SETTINGS),
        lambda: refuse_other_settings(tmp_path, SETTINGS),
        lambda: parent_of(best),
    ):
        with pytest.raises(ValueError, match=r"lineage\.json is damaged \(Expecting value.*\): delete it and give the"):
            read()
