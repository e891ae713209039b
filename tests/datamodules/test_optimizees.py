"""Problems of the three splits: apart from each other, and attacks on images that the victim classifies right."""

import pytest
import torch

from datamodules import Digits
from datamodules.optimizees import AttackOptimizees, ClassificationOptimizees, QuadraticOptimizees
from tests.runs import Counted
from zeroth.problems import BinaryClassification, Quadratics

SPLITS = ("train", "val", "test")


def test_attacks_are_on_images_that_the_victim_classifies_right(tmp_path):
    victim = Counted(log=str(tmp_path / "log"))
    digits = Digits()
    data = AttackOptimizees(digits, victim, train=150, val=12, test=30, seed=3, c=0.2, size=(4, 4))
    problems = {split: data.problems(split) for split in SPLITS}
    for split, held in problems.items():
        assert held.count == data.sizes[split] and held.c == 0.2 and held.dimension == 16
        assert torch.equal(victim(held.images).argmax(1), held.labels)
        source = digits.dataset("test" if split == "test" else "val")
        items = {item["index"]: item for item in source}
        for row, index in enumerate(held.indices.tolist()):
            assert torch.equal(items[index]["image"], held.images[row])
            assert items[index]["label"] == int(held.labels[row])
    taken = [index for held in problems.values() for index in held.indices.tolist()]
    assert len(set(taken)) == len(taken) == 192
    # The victim is wrong on some of the 200: the images of both splits together are asked in one order.
    assert 162 < problems["train"].queries == problems["val"].queries <= 200 and problems["test"].queries >= 30
    assert torch.equal(data.problems("val").indices, problems["val"].indices)
    other = AttackOptimizees(digits, victim, train=150, val=12, test=30, seed=4).problems("train")
    assert set(other.indices.tolist()) != set(problems["train"].indices.tolist())


def test_too_few_right_answers_are_told(tmp_path):
    data = AttackOptimizees(Digits(), Counted(log=str(tmp_path / "log")), train=190, val=10)
    with pytest.raises(ValueError, match=r"classifies \d+ of the 200 images of the val split right, .* ask for 200"):
        data.problems("train")


@pytest.mark.parametrize(
    ("kind", "of"), [(QuadraticOptimizees, Quadratics), (ClassificationOptimizees, BinaryClassification)]
)
def test_synthetic_problems_are_apart(kind, of):
    data = kind(dimension=3, train=4, val=3, test=2)
    problems = {split: data.problems(split) for split in SPLITS}
    assert [held.indices.tolist() for held in problems.values()] == [[0, 1, 2, 3], [4, 5, 6], [7, 8]]
    assert all(isinstance(held, of) and held.dimension == 3 for held in problems.values())
    again = data.problems("test", seed=5)
    points = problems["test"].start.unsqueeze(1)
    assert not torch.equal(again.start, problems["test"].start)  # of the same problems
    assert torch.equal(
        again.evaluate(points, torch.arange(2), None), problems["test"].evaluate(points, torch.arange(2), None)
    )


def test_loaders_give_rows_of_problems_and_turns_of_windows():
    data = QuadraticOptimizees(train=4, val=5, test=2, windows=6, batch_size=3)
    assert len(data.train_dataloader()) == 6
    assert [batch["index"].tolist() for batch in data.val_dataloader()] == [[0, 1, 2], [3, 4]]
    for loader in (data.test_dataloader(), data.predict_dataloader()):
        assert [batch["index"].tolist() for batch in loader] == [[0, 1]]
    state = torch.get_rng_state()
    list(data.train_dataloader())
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws move


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="windows must be at least 1, got 0"):
        QuadraticOptimizees(windows=0)
