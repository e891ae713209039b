"""The seeded split, the items and the loaders, on scikit-learn's digits."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from datamodules import Digits


def indices(data: Digits, split: str) -> list[int]:
    return [item["index"] for item in data.dataset(split)]


def test_splits_are_disjoint_complete_and_of_the_stated_sizes() -> None:
    data = Digits(val_size=200)
    train, val, test = (indices(data, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (1200, 200, 397)
    assert sorted(train + val + test) == list(range(1797))


def test_items_lead_back_to_the_raw_dataset() -> None:
    raw = load_digits()
    for split in ("train", "val", "test"):
        for item in list(Digits().dataset(split))[::50]:
            np.testing.assert_array_equal(item["image"][0].numpy(), raw.images[item["index"]] / 16)
            assert item["label"] == raw.target[item["index"]]
            assert item["image"].dtype == torch.float32


def test_the_seed_draws_the_validation_images_and_never_the_test_images() -> None:
    first, again, other = Digits(seed=0), Digits(seed=0), Digits(seed=1)
    assert indices(first, "val") == indices(again, "val")
    assert indices(first, "val") != indices(other, "val")
    assert indices(first, "test") == indices(other, "test") == indices(Digits(val_size=7), "test")


def test_the_split_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Digits().setup()
    assert torch.equal(torch.rand(3), expected)


def test_val_size_as_a_share() -> None:
    assert len(Digits(val_size=0.1).dataset("val")) == 140


def test_loaders_give_batches_of_the_promised_form() -> None:
    data = Digits(batch_size=100)
    data.setup()
    seen = []
    for batch in data.train_dataloader():
        assert batch["image"].shape[1:] == data.image_shape
        assert batch["image"].dtype == torch.float32
        assert batch["image"].min() >= 0 and batch["image"].max() <= 1
        assert batch["label"].dtype == batch["index"].dtype == torch.int64
        seen += batch["index"].tolist()
    assert seen != sorted(seen)  # shuffled
    assert sorted(seen) == indices(data, "train")
    for loader, split in ((data.val_dataloader(), "val"), (data.test_dataloader(), "test")):
        assert torch.cat([batch["index"] for batch in loader]).tolist() == indices(data, split)
    assert torch.cat([batch["index"] for batch in data.predict_dataloader()]).tolist() == indices(data, "test")


def test_any_loader_of_any_subset_gives_the_same_items() -> None:
    split = Digits().dataset("test")
    chosen = [5, 3, 200]
    (batch,) = DataLoader(Subset(split, chosen), batch_size=3)
    for row, place in enumerate(chosen):
        item = split[place]
        assert torch.equal(batch["image"][row], item["image"])
        assert (batch["label"][row].item(), batch["index"][row].item()) == (item["label"], item["index"])


def test_transforms_are_for_training_alone() -> None:
    raw, inverted = load_digits().images / 16, Digits(train_transforms=[v2.Lambda(lambda image: 1 - image)])
    inverted.setup("fit")
    for batch in inverted.train_dataloader():
        np.testing.assert_array_equal(batch["image"][:, 0].numpy(), 1 - raw[batch["index"].numpy()])
    for loader in (inverted.val_dataloader(), inverted.test_dataloader(), inverted.predict_dataloader()):
        for batch in loader:
            np.testing.assert_array_equal(batch["image"][:, 0].numpy(), raw[batch["index"].numpy()])


def test_training_images_that_are_asked_for_by_the_split_are_raw_at_every_look() -> None:
    raw = load_digits().images / 16
    data = Digits(train_transforms=[v2.RandomCrop(8, padding=1)])  # as configs/victim/digits.yaml
    data.setup("fit")  # the training loader's own dataset is built by then
    augmented = next(iter(data.train_dataloader()))
    assert (augmented["image"][:, 0].numpy() != raw[augmented["index"].numpy()]).any()
    for _ in range(2):
        for item in data.dataset("train"):
            np.testing.assert_array_equal(item["image"][0].numpy(), raw[item["index"]])
    assert data.dataset("train") is data.dataset("train") is not data.dataset("train", augment=True)
    with pytest.raises(ValueError, match="augment is for the split train alone, got split='val'"):
        data.dataset("val", augment=True)


def test_each_image_gets_its_own_draw() -> None:
    torch.manual_seed(0)
    data = Digits(train_transforms=[v2.RandomHorizontalFlip()])
    plain = Digits().dataset("train").__getitems__(list(range(100)))
    flips = [
        torch.equal(item["image"], image["image"].flip(-1))
        for item, image in zip(data.dataset("train", augment=True).__getitems__(list(range(100))), plain, strict=True)
    ]
    assert 30 <= sum(flips) <= 70  # 50 +- 4 standard deviations; one draw for all would give 0 or 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be 0 or more, got -1"),
        ({"val_size": 0}, "val_size must be .*, got 0"),
        ({"val_size": 1.0}, "val_size must be .*, got 1.0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Digits(**arguments)


def test_too_large_a_validation_split_and_an_unknown_split_are_refused() -> None:
    with pytest.raises(ValueError, match=r"val_size=1400 leaves no images .* there are 1400"):
        Digits(val_size=1400).setup("fit")
    with pytest.raises(ValueError, match="train, val or test, got 'dev'"):
        Digits().dataset("dev")
