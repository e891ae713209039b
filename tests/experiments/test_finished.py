"""When a stage counts as done: its markers and its products."""

import pytest

from experiments.plan import finished


def test_a_stage_is_done_when_one_command_or_all_shards_are(tmp_path):
    report = tmp_path / "report.json"
    report.write_text('{"complete": false}')  # of one machine, which has its own shard alone
    for names, done in (
        ([], False),
        (["done.1of2"], False),
        (["done.2of2"], True),  # the other half
        (["done.1of3", "done.2of3"], True),
    ):
        for name in names:
            (tmp_path / name).touch()
        assert finished(tmp_path, "certify") is done
    (tmp_path / "done.1of2").unlink()
    assert not finished(tmp_path, "certify")
    (tmp_path / "done").touch()
    assert not finished(tmp_path, "certify")
    report.write_text('{"complete": true}')
    assert finished(tmp_path, "certify")


@pytest.mark.parametrize(
    ("job", "products"),
    [
        ("train", ["checkpoints/best.ckpt"]),
        ("tune", ["tuned.yaml", "trials.json"]),
        ("attack", ["report.json"]),
        ("study", ["study.json"]),
    ],
)
def test_a_stage_that_is_marked_is_done_only_with_what_it_made(tmp_path, job, products):
    (tmp_path / "done").touch()
    for name in products:
        assert not finished(tmp_path, job)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"complete": true}')
    assert finished(tmp_path, job)
