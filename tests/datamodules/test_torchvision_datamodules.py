"""MNIST, CIFAR-10 and STL-10: pixels and indices lead back to torchvision's files; what is missing is explained."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torchvision import datasets
from torchvision.transforms import v2

from datamodules import CIFAR10, MNIST, STL10
from datamodules.image_datamodule import data_root

RNG = np.random.default_rng(0)
COUNTS = {True: 30, False: 12}
LABELS = {train: RNG.integers(0, 10, count) for train, count in COUNTS.items()}
# Pixels as each of torchvision's classes holds them.
GRAY = {train: RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8) for train, count in COUNTS.items()}
LAST = {train: RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for train, count in COUNTS.items()}
FIRST = {train: RNG.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8) for train, count in COUNTS.items()}


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Small stand-ins for torchvision's readers, whose files carry checksums; says which sources were read."""
    read = []

    def mnist(root: str, train: bool, download: bool) -> SimpleNamespace:
        read.append(train)
        return SimpleNamespace(data=torch.from_numpy(GRAY[train]), targets=torch.from_numpy(LABELS[train]))

    def cifar10(root: str, train: bool, download: bool) -> SimpleNamespace:
        read.append(train)
        return SimpleNamespace(data=LAST[train], targets=LABELS[train].tolist())

    def stl10(root: str, split: str, download: bool) -> SimpleNamespace:
        train = {"train": True, "test": False}[split]
        read.append(train)
        return SimpleNamespace(data=FIRST[train], labels=LABELS[train].astype(np.uint8))

    for name, stand_in in (("MNIST", mnist), ("CIFAR10", cifar10), ("STL10", stl10)):
        monkeypatch.setattr(datasets, name, stand_in)
    return read


@pytest.mark.parametrize(
    ("datamodule", "raw"),
    [
        (MNIST, {train: GRAY[train][:, None] for train in GRAY}),
        (CIFAR10, {train: LAST[train].transpose(0, 3, 1, 2) for train in LAST}),
        (STL10, FIRST),
    ],
)
def test_items_lead_back_to_the_files(datamodule: type, raw: dict[bool, np.ndarray], sources: list[bool]) -> None:
    data = datamodule(val_size=10)
    data.prepare_data()
    data.setup()
    assert [len(data.dataset(split)) for split in ("train", "val", "test")] == [20, 10, 12]
    for split in ("train", "val", "test"):
        train = split != "test"
        for item in data.dataset(split):
            assert item["image"].dtype == torch.float32
            np.testing.assert_array_equal(item["image"].numpy(), raw[train][item["index"]].astype(np.float32) / 255)
            assert item["label"] == LABELS[train][item["index"]]
            assert tuple(item["image"].shape) == data.image_shape
    assert len(data.class_names) == data.num_classes == 10
    assert sources == [True, False]  # each source is read once, whoever asks


@pytest.mark.parametrize(("datamodule", "val_size"), [(MNIST, 5000), (CIFAR10, 5000), (STL10, 500)])
def test_a_config_sees_every_typed_option(datamodule: type, val_size: int) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(datamodule, "data")
    defaults = {"root": None, "download": True, "batch_size": 128, "seed": 0, "num_workers": 0}
    assert parser.get_defaults().data.as_dict() == {**defaults, "val_size": val_size, "train_transforms": None}
    for word in ("--data.batch_size=many", "--data.download=perhaps", "--data.batchsize=3"):
        with pytest.raises(ArgumentError):
            parser.parse_args([word])
    built = parser.instantiate(parser.parse_args(["--data.batch_size=3", "--data.val_size=0.25"])).data
    assert (built.batch_size, built.val_size) == (3, 0.25)


@pytest.mark.parametrize("datamodule", [MNIST, CIFAR10, STL10])
def test_augmentation_is_for_training_alone(datamodule: type, sources: list[bool]) -> None:
    data = datamodule(val_size=10, batch_size=20, train_transforms=[v2.RandomInvert(1)])
    (batch,) = data.train_dataloader()
    images = {item["index"]: item["image"] for item in data.dataset("train")}
    for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
        torch.testing.assert_close(image, 1 - images[index])
    assert sources == [True]  # one read serves both


@pytest.mark.parametrize("datamodule", [MNIST, CIFAR10, STL10])
def test_missing_data_says_how_to_get_it(datamodule: type, tmp_path: Path) -> None:
    data = datamodule(root=str(tmp_path), download=False)
    for step in (data.prepare_data, data.setup):
        with pytest.raises(
            FileNotFoundError, match=r"download is off.*: set download to true, .*ZEROTH_DATA"
        ) as caught:
            step()
        assert str(tmp_path) in str(caught.value)


def test_a_failed_download_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(root: str, train: bool, download: bool) -> None:
        raise OSError("no route to host") if download else RuntimeError("Dataset not found")

    monkeypatch.setattr(datasets, "CIFAR10", offline)
    told = r"the download failed \(no route to host\): try again on a machine that is online, put .*ZEROTH_DATA"
    with pytest.raises(FileNotFoundError, match=told) as caught:
        CIFAR10(root=str(tmp_path)).prepare_data()
    assert "set download" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"download is off \(Dataset not found\): set download to true, put "):
        CIFAR10(root=str(tmp_path), download=False).prepare_data()


@pytest.mark.parametrize("there", [False, True])
def test_a_failed_download_is_told_in_short_and_leaves_no_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    root = tmp_path / "some" / "data"
    if there:
        (root / "mine").mkdir(parents=True)

    def refused(root: str, train: bool, download: bool) -> None:
        if download:
            (Path(root) / "CIFAR10" / "raw").mkdir(parents=True)
        raise RuntimeError("403 Forbidden: " + "who are you, " * 99 + "\nasked the server")

    monkeypatch.setattr(datasets, "CIFAR10", refused)
    with pytest.raises(FileNotFoundError) as caught:
        CIFAR10(root=str(root)).prepare_data()
    message = str(caught.value)
    assert "\n" not in message and len(message.replace(str(root), "")) < 240 and "403 Forbidden" in message
    assert (root / "mine").is_dir() if there else list(tmp_path.iterdir()) == []


def test_the_root_is_the_argument_then_the_environment_then_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROTH_DATA", "/from/environment")
    assert data_root("/from/argument") == Path("/from/argument")
    assert data_root(None) == Path("/from/environment")
    monkeypatch.delenv("ZEROTH_DATA")
    assert data_root(None) == Path("data")


@pytest.fixture
def mnist() -> MNIST:
    data = MNIST(download=False)
    try:
        data.prepare_data()
    except FileNotFoundError:
        pytest.skip("MNIST is not under ZEROTH_DATA or ./data")
    return data


def test_mnist_is_the_published_mnist(mnist: MNIST) -> None:
    assert [len(mnist.dataset(split)) for split in ("train", "val", "test")] == [55_000, 5_000, 10_000]
    train = torch.cat([mnist.dataset(split).indices for split in ("train", "val")])
    assert torch.equal(train.sort().values, torch.arange(60_000))
    assert [mnist.dataset("test")[row]["label"] for row in range(10)] == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    pixels = mnist.dataset("train").images / 255
    assert abs(pixels.mean().item() - 0.1307) < 1e-4  # the figures everyone normalises by
    assert abs(pixels.std().item() - 0.3081) < 1e-4
