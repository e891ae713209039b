import pytest
import torch

from tests.victims import Logging, Scatter, random_linear
from zeroth.attacks import ZONGD
from zeroth.oracles import GradientOracle, Journal, JournalMismatch, LabelOracle, ScoreOracle

IMAGES = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
NET = random_linear(5, 16)
LABELS = NET(IMAGES).argmax(1)


class Power(BaseException):
    """The plug is pulled."""


class Fragile(Logging):
    def __init__(self, model, after):
        super().__init__(model)
        self.after = after

    def forward(self, images):
        if self.seen + len(images) > self.after:
            raise Power
        return super().forward(images)


def attack_for(oracle_type):
    return Scatter(oracle_type=oracle_type, width=5, scale=0.1, stop=False)


def run(victim, path, oracle_type, seed=3):
    journal = Journal.open(path, {"seed": 3})
    try:
        return attack_for(oracle_type)(
            oracle_type(victim, max_batch=4), IMAGES, LABELS, budget=60, seed=seed, journal=journal
        )
    finally:
        journal.close()


@pytest.mark.parametrize("oracle_type", [ScoreOracle, LabelOracle])
@pytest.mark.parametrize("after", [3, 100, 290, 345])
def test_a_killed_attack_resumes_by_replay(tmp_path, oracle_type, after):
    whole = Logging(NET)
    expected = run(whole, tmp_path / "whole", oracle_type)
    assert whole.seen == int(expected.queries.sum()) > 345
    killed = Fragile(NET, after)
    with pytest.raises(Power):
        run(killed, tmp_path / "torn", oracle_type)
    with (tmp_path / "torn").open("ab") as file:
        file.write(b"\x03\x00\x00\x00\x00")  # an entry torn by the kill
    again = Logging(NET)
    result = run(again, tmp_path / "torn", oracle_type)
    assert again.seen == whole.seen - killed.seen
    assert torch.equal(again.asked, whole.asked[killed.seen :])
    for name in ("success", "queries", "queries_to_success", "distance", "adversarial", "predicted"):
        assert torch.equal(getattr(result, name), getattr(expected, name)), name
    finished = Logging(NET)
    run(finished, tmp_path / "torn", oracle_type)
    assert finished.seen == 0


def test_labels_cost_a_byte_a_query(tmp_path):
    total = int(run(Logging(NET), tmp_path / "labels", LabelOracle).queries.sum())
    head = len((tmp_path / "labels").read_bytes().split(b"\n", 1)[0]) + 1
    body = (tmp_path / "labels").stat().st_size - head
    entries, rest = divmod(body - total, 17)
    assert rest == 0
    assert total / 4 <= entries <= total


def test_large_labels_survive(tmp_path):
    journal = Journal.open(tmp_path / "j", {})
    journal.append(IMAGES, torch.tensor([1, 2, 300, 4, 5, 999]))
    journal.close()
    stored = Journal.open(tmp_path / "j", {}).replay(IMAGES)
    assert stored.tolist() == [1, 2, 300, 4, 5, 999]


def test_another_run_is_refused(tmp_path):
    run(Logging(NET), tmp_path / "j", LabelOracle)
    with pytest.raises(JournalMismatch, match=r"written with seed = 3, this run has 4.*delete the file"):
        Journal.open(tmp_path / "j", {"seed": 4})
    with pytest.raises(JournalMismatch, match=r"other questions: its entry \d+ was written for 4 other points"):
        run(Logging(NET), tmp_path / "j", LabelOracle, seed=9)


@pytest.mark.parametrize("cap", [11, 36, 57, 106])
@pytest.mark.parametrize("after", [5, 30, 90])
def test_a_cap_on_all_queries_counts_replayed_answers(tmp_path, cap, after):
    def go(victim, name):
        journal = Journal.open(tmp_path / name, {})
        try:
            oracle = ScoreOracle(victim, max_batch=4, max_queries=cap)
            attack = ZONGD(samples=5, epsilon=0.05, cells=None)
            return attack(oracle, IMAGES, LABELS, budget=60, seed=0, journal=journal)
        finally:
            journal.close()

    expected = go(Logging(NET), "whole")
    assert int(expected.queries.sum()) <= cap
    if after < cap:
        with pytest.raises(Power):
            go(Fragile(NET, after), "torn")
    for _ in range(2):
        result = go(Logging(NET), "torn")
        assert torch.equal(result.queries, expected.queries) and result.reason == expected.reason


def test_labels_out_of_range_are_refused_on_the_second_start_too(tmp_path):
    for _ in range(2):
        journal = Journal.open(tmp_path / "j", {})
        with pytest.raises(ValueError, match=r"labels must lie in 0..4, the victim has 5 classes, got 7"):
            ZONGD()(ScoreOracle(NET), IMAGES, LABELS.clone().fill_(7), budget=9, seed=0, journal=journal)
        journal.close()


def test_files_that_are_no_journal_or_lack_a_field_are_refused(tmp_path):
    for name, content in (("text", b"no journal at all"), ("png", bytes(range(128, 256)))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(JournalMismatch, match="is no journal: choose another path, or delete the file"):
            Journal.open(tmp_path / name, {})
        assert (tmp_path / name).read_bytes() == content
    Journal.open(tmp_path / "j", {"a": 1, "b": None}).close()
    with pytest.raises(JournalMismatch, match="written with b = None"):
        Journal.open(tmp_path / "j", {"a": 1})


def test_one_changed_bit_of_one_pixel_is_noticed(tmp_path):
    journal = Journal.open(tmp_path / "j", {})
    journal.append(IMAGES, LABELS)
    changed = IMAGES.clone()
    changed[5, 0, 3, 3] = torch.nextafter(changed[5, 0, 3, 3], torch.tensor(1.0))
    with pytest.raises(JournalMismatch):
        Journal.open(tmp_path / "j", {}).replay(changed)
    with pytest.raises(JournalMismatch):  # the same images in another order
        Journal.open(tmp_path / "j", {}).replay(IMAGES.flip(0))


def test_gradients_are_not_journalled(tmp_path):
    with pytest.raises(ValueError, match="journal must be None under a GradientOracle"):
        ZONGD()(GradientOracle(NET), IMAGES, LABELS, budget=9, seed=0, journal=Journal.open(tmp_path / "j", {}))


def test_a_full_disk_is_reported_and_keeps_what_was_written(tmp_path, monkeypatch):
    journal = Journal.open(tmp_path / "j", {})
    journal.append(IMAGES, LABELS)

    class Full:
        """Takes half of an entry, then no more."""

        def __init__(self):
            self.full = False

        def __getattr__(self, name):
            return getattr(journal_file, name)

        def write(self, data):
            if self.full:
                raise OSError(28, "No space left on device")
            self.full = True
            return journal_file.write(data[: len(data) // 2])

    journal_file = journal._file
    monkeypatch.setattr(journal, "_file", Full())
    with pytest.raises(
        OSError,
        match=r"could not be written \(No space left on device\): free disk space.*1 answered requests are kept",
    ):
        journal.append(IMAGES, LABELS)
    journal_file.close()
    assert Journal.open(tmp_path / "j", {}).replay(IMAGES).tolist() == LABELS.tolist()
