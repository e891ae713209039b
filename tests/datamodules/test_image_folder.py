"""Trees of image files: labels, indices, sizes, class maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from datamodules import ImageFolder
from datamodules.class_map import folder_labels, read_class_map

FOLDERS = ["n01", "n02", "n03", "n05"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """4 classes; 5 training and 2 test images each, 12 x 16 pixels, whose colour is their class and number."""
    for split, count in (("train", 5), ("test", 2)):
        for label, folder in enumerate(FOLDERS):
            (tmp_path / split / folder).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((12, 16, 3), (10 * label, number, 200), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / folder / f"{number}.png")
    return tmp_path


def test_labels_and_indices_count_folders_and_files_in_sorted_order(tree: Path) -> None:
    data = ImageFolder(str(tree), val_size=4)
    data.setup()
    assert (data.num_classes, data.class_names, data.image_shape) == (4, FOLDERS, (3, 12, 16))
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [16, 4, 8]
    for split, each in (("train", 5), ("val", 5), ("test", 2)):
        for item in data.dataset(split):
            label, number = divmod(item["index"], each)
            assert item["label"] == label
            expected = torch.tensor([10 * label, number, 200]) / 255
            torch.testing.assert_close(item["image"], expected.view(3, 1, 1).expand(3, 12, 16), rtol=0, atol=1e-7)
    both = [item["index"] for split in ("train", "val") for item in data.dataset(split)]
    assert sorted(both) == list(range(20))


def test_the_folder_counts_from_the_data_root(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROTH_DATA", str(tree.parent))
    assert len(ImageFolder(tree.name).dataset("test")) == 8


def test_batches(tree: Path) -> None:
    data = ImageFolder(str(tree), crop=8, batch_size=8)
    (batch,) = data.test_dataloader()
    assert batch["image"].shape == (8, 3, 8, 8)
    assert batch["label"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch["index"].tolist() == list(range(8))


def test_resize_takes_the_shorter_side_and_crop_the_centre(tree: Path) -> None:
    ramp = np.tile(np.arange(16, dtype=np.uint8)[None, :, None], (12, 1, 3))  # a pixel's value is its column
    Image.fromarray(ramp).save(tree / "test" / "n01" / "0.png")
    cropped = ImageFolder(str(tree), crop=4).dataset("test")[0]["image"]
    torch.testing.assert_close(cropped[0, 0] * 255, torch.tensor([6.0, 7.0, 8.0, 9.0]))
    assert ImageFolder(str(tree), resize=24).image_shape == (3, 24, 32)
    assert ImageFolder(str(tree), resize=24, crop=20).dataset("test")[3]["image"].shape == (3, 20, 20)


def test_train_transforms_take_the_place_of_resize_and_crop_in_training_alone(tree: Path) -> None:
    data = ImageFolder(
        str(tree), crop=8, val_size=4, train_transforms=[v2.Pad(2), v2.CenterCrop(8), v2.RandomInvert(1)]
    )
    plain = ImageFolder(str(tree), crop=8, val_size=4)
    trained = data.dataset("train", augment=True)[0]["image"]
    torch.testing.assert_close(trained, 1 - plain.dataset("train", augment=True)[0]["image"])
    for split in ("train", "val", "test"):
        assert torch.equal(data.dataset(split)[0]["image"], plain.dataset(split)[0]["image"])


def test_a_tree_of_test_images_alone_serves_the_test_split(tree: Path) -> None:
    (tree / "train").rename(tree / "elsewhere")
    data = ImageFolder(str(tree))
    data.prepare_data()
    data.setup("test")
    assert (data.num_classes, len(data.dataset("test"))) == (4, 8)
    with pytest.raises(FileNotFoundError, match=r"no image folder .*train.*<class>/<image file>.*ZEROTH_DATA"):
        data.setup("fit")


def test_a_missing_tree_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no image folder .*nowhere.*ZEROTH_DATA"):
        ImageFolder("nowhere", root=str(tmp_path)).prepare_data()


def test_images_of_several_sizes_are_refused_by_name(tree: Path) -> None:
    Image.new("RGB", (9, 9)).save(tree / "test" / "n05" / "1.png")
    with pytest.raises(ValueError, match=r"n05/1.png comes out as \(3, 9, 9\).*\(3, 12, 16\): set resize and crop"):
        ImageFolder(str(tree)).dataset("test")[7]


@pytest.mark.parametrize("as_file", [True, False])
def test_a_class_map_joins_folders_and_leaves_the_others_out(tree: Path, as_file: bool) -> None:
    mapping = {"late": ["n03..n09"], "early": ["n01"]}  # n02 in neither; n05 inside the range
    if as_file:
        (tree / "map.json").write_text(json.dumps(mapping))
    data = ImageFolder(str(tree), class_map=str(tree / "map.json") if as_file else mapping)
    assert (data.num_classes, data.class_names) == (2, ["late", "early"])
    items = list(data.dataset("test"))
    assert [item["label"] for item in items] == [1, 1, 0, 0, 0, 0]  # file order n01, n03, n05
    assert [item["index"] for item in items] == list(range(6))
    assert [round(item["image"][0, 0, 0].item() * 255) for item in items] == [0, 0, 20, 20, 30, 30]


def test_class_map_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'n04' of class 'a' matches none of the 4 folders"):
        folder_labels({"a": ["n04"]}, FOLDERS)
    with pytest.raises(ValueError, match="'n02' is in two classes, 'b'"):
        folder_labels({"a": ["n01..n02"], "b": ["n02"]}, FOLDERS)
    with pytest.raises(FileNotFoundError, match=r"class_map .*none.yaml does not exist"):
        read_class_map(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[n01, n02]")
    with pytest.raises(ValueError, match="must hold a mapping"):
        read_class_map(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: n01")
    with pytest.raises(ValueError, match="class 'a' needs a list of folder names"):
        read_class_map(tmp_path / "bad.yaml")


def test_splits_with_other_classes_are_refused(tree: Path) -> None:
    (tree / "test" / "n02").rename(tree / "test" / "n99")
    with pytest.raises(ValueError, match=r"test has other class folders than .*train \(n02, n99\).*class_map"):
        ImageFolder(str(tree)).dataset("test")


def test_the_shape_of_cropped_images_is_known_without_listing_files(tree: Path) -> None:
    data = ImageFolder(str(tree), crop=20)  # larger than the images: padded
    assert data.image_shape == (3, 20, 20) == tuple(data.dataset("test")[0]["image"].shape)


def test_bad_sizes_are_named(tree: Path) -> None:
    with pytest.raises(ValueError, match="crop must be at least 1 pixel or null, got 0"):
        ImageFolder(str(tree), crop=0)
