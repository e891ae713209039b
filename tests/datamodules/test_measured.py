"""Measured images: what a reconstructor sees beside what it should answer."""

import pytest
import torch

from cli.folders import result_settings
from datamodules import Digits, MeasuredDigits, MeasuredMNIST
from zeroth.networks import GaussianMeasurement


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_items_are_those_of_the_dataset_measured(split) -> None:
    plain, measured = Digits().dataset(split), MeasuredDigits(measurements=20, measurement_seed=5).dataset(split)
    assert len(plain) == len(measured)
    assert torch.equal(plain.indices, measured.indices) and torch.equal(plain.targets, measured.targets)
    matrix = torch.randn(64, 20, generator=torch.Generator().manual_seed(5)) / 20**0.5
    for row in (0, 17, len(plain) - 1):
        image, item = plain[row]["image"], measured[row]
        assert torch.equal(item["original"], image)
        assert (item["label"], item["index"]) == (plain[row]["label"], plain[row]["index"])
        back = matrix @ (matrix.T @ image.flatten())
        expected = ((back - back.min()) / (back.max() - back.min())).reshape(1, 8, 8)
        torch.testing.assert_close(item["image"], expected, atol=1e-5, rtol=0)


def test_a_batch_is_measured_as_its_images_are_one_by_one() -> None:
    data = MeasuredDigits(batch_size=50)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    alone = torch.stack([data.dataset("test")[row]["image"] for row in range(50)])
    torch.testing.assert_close(batch["image"], alone, atol=1e-5, rtol=0)
    assert float(batch["image"].min()) == 0 and float(batch["image"].max()) == 1
    assert batch["original"].shape == batch["image"].shape == (50, 1, 8, 8)


def test_every_process_has_the_same_measurement_and_another_seed_another() -> None:
    first, again, other = (MeasuredDigits(measurement_seed=seed).dataset("val")[3]["image"] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=0.05)


def test_the_sizes_are_those_of_the_paper() -> None:
    data = MeasuredMNIST()
    assert isinstance(data.measurement, GaussianMeasurement)
    assert (data.measurement.measurements, data.image_shape, data.num_classes) == (576, (1, 28, 28), 10)
    with pytest.raises(ValueError, match="measurements must be at least 1, got 0"):
        MeasuredDigits(measurements=0)


def test_where_the_images_lie_decides_no_outcome() -> None:
    """The options of the dataset stand beside the measurement's, so that the place is told apart as ever."""
    options = {"root": "/somewhere", "num_workers": 3, "measurements": 576}
    told = result_settings({"data": {"class_path": "datamodules.MeasuredMNIST", "init_args": options}})
    assert told["data"]["init_args"] == {"measurements": 576}
