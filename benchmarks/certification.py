"""Certification of the MNIST victim of Carlini & Wagner: ``python -m benchmarks.certification``.

Random weights and images do: every image is asked the same number of times whatever the answers are.
"""

from collections.abc import Sequence

import torch
from jsonargparse import auto_cli

from benchmarks.harness import Job, TimedVictim, device_name, devices, show, sweep
from zeroth.networks.carlini_wagner_cnn import CarliniWagnerCNN
from zeroth.smoothing import SmoothedClassifier

SHAPE = (1, 28, 28)
N0 = 100


def certification_job(victim: TimedVictim, shape: tuple[int, int, int]) -> Job:
    """Make the job of certifying random images at sigma .25, at least 20 samples each beside the n0 = 100."""

    def job(images: int, queries: int) -> None:
        clean = torch.rand(images, *shape, generator=torch.Generator().manual_seed(0)).to(victim.device)
        smoothed = SmoothedClassifier(victim, num_classes=10, sigma=0.25)
        smoothed.certify(clean, n0=N0, n=max(queries // images - N0, 20), alpha=0.001, seed=0)

    return job


def main(counts: Sequence[int] = (1, 10, 100, 500, 1000), seconds: float = 8.0) -> None:
    """Print samples a second of CERTIFY against the victim's plain forward rate, on each device.

    Args:
        counts: numbers of images certified at once.
        seconds: about how long each is measured.
    """
    for device in devices():
        torch.manual_seed(0)
        victim = TimedVictim(CarliniWagnerCNN()).to(device)
        job = certification_job(victim, SHAPE)
        costs = sweep([(job, images) for images in counts], victim, SHAPE, seconds=seconds)
        show(f"Certification: sigma .25, MNIST C&W victim, {device_name(device)}", costs)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
