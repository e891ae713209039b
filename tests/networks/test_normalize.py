"""Normalisation as a layer."""

import pytest
import torch

import zeroth.networks
from cli.faults import known_classes
from zeroth.networks._normalize import Normalize


def test_it_is_the_formula_and_travels_with_the_weights() -> None:
    layer = Normalize(mean=[0.2, 0.5, 0.8], std=[0.1, 0.2, 0.4])
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for channel, (mean, std) in enumerate([(0.2, 0.1), (0.5, 0.2), (0.8, 0.4)]):
        torch.testing.assert_close(layer(images)[:, channel], (images[:, channel] - mean) / std)
    assert set(layer.state_dict()) == {"mean", "std"}


@pytest.mark.parametrize(("mean", "std"), [([0.5], [1.0, 1.0]), ([0.5], [0.0]), ([], [])])
def test_statistics_that_make_no_sense_are_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValueError, match="std"):
        Normalize(mean, std)


def test_a_part_of_networks_is_not_offered_as_a_victim() -> None:
    assert "Normalize" not in zeroth.networks.__all__
    assert "Normalize" not in known_classes("network") and "DigitsCNN" in known_classes("network")
    assert {"normalize.mean", "normalize.std"} <= set(zeroth.networks.DigitsCNN().state_dict())  # as in old checkpoints
