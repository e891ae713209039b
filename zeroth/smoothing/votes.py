"""Counting what a black box says of noisy copies of images.

Shapes: B images of C x H x W = D pixels, S samples an image, M images a model batch, K classes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from zeroth.oracles import ImageStreams, Journal, LabelOracle, Oracle, VictimError
from zeroth.oracles.scores import name_of, unreadable

# Normal numbers drawn at once from an image's stream: on CPU a block stays in the cache, a GPU wants few, large
# kernels. The size of a block must not depend on the model batch, or the draws would.
BLOCK = {"cpu": 2**15, "cuda": 2**20}
# A fault is looked for after the first batch and then about this often: each look waits for the device.
CHECK_SECONDS = 1.0
NAN = torch.iinfo(torch.int64).min


class VoteOracle(LabelOracle):
    """Answers labels without waiting for the device.

    Scores with NaN or infinity answer the label :data:`NAN`, which :func:`count_votes` counts and reports, where a
    LabelOracle looks at (and so waits for) each batch. The first batch is checked at once, as there.
    """

    def read(self, scores: Any, images: int) -> Tensor:
        """See :class:`zeroth.oracles.Oracle`."""
        if isinstance(scores, Tensor) and scores.is_floating_point() and scores.shape == (images, self.num_classes):
            return scores.argmax(1).masked_fill(unreadable(scores), NAN).to(self.device)
        return super().read(scores, images)


def noisy_batches(
    images: Tensor, sigma: float, samples: int, streams: ImageStreams, max_batch: int
) -> Iterator[Tensor]:
    """Yield images + N(0, sigma^2), each image ``samples`` times, in batches of ``max_batch`` (the last has the rest).

    Image by image, so a batch holds several images where ``samples`` is small. Pixels are not clipped after the noise.
    Each batch is a new tensor: the model may keep or change it.

    Args:
        images: (B, C, H, W) float32, on the device of ``streams``.
        sigma: standard deviation, in [0, 1] pixels.
        samples: S.
        streams: one random stream an image.
        max_batch: M.

    Yields:
        (M, C, H, W); joined, sample s of all B * S is of image s // S.
    """
    pixels, device = images[0].numel() if len(images) else 1, images.device
    block = max(1, BLOCK.get(device.type, BLOCK["cuda"]) // pixels)
    left = len(images) * samples
    batch, filled = images.new_empty(min(max_batch, left), *images.shape[1:]), 0
    for row, image in enumerate(images):
        generator = streams.generator(row)
        for start in range(0, samples, block):
            size = min(block, samples - start)
            fits = size <= len(batch) - filled
            # Drawn in place; only a block across the end of the batch is drawn aside and copied.
            draw = batch[filled : filled + size] if fits else images.new_empty(size, *image.shape)
            draw.normal_(0.0, sigma, generator=generator).add_(image)
            while len(draw):
                part = draw[: len(batch) - filled]
                if not fits:
                    batch[filled : filled + len(part)] = part
                draw, filled = draw[len(part) :], filled + len(part)
                if filled == len(batch):
                    yield batch
                    left -= filled
                    batch, filled = images.new_empty(min(max_batch, left), *image.shape), 0


def count_votes(
    oracle: Oracle,
    images: Tensor,
    *,
    sigma: float,
    phases: Sequence[int],
    num_classes: int,
    streams: ImageStreams,
    journal: Journal | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Count the labels of noisy copies of each image, on the device: one wait for it at the end, and one a second.

    Args:
        oracle: the black box; scores are read as their arg max.
        images: (B, C, H, W) in [0, 1].
        sigma: standard deviation of the noise, in [0, 1] pixels.
        phases: (P numbers) samples an image of each independent count, taken from the image's stream in this order.
        num_classes: K.
        streams: one random stream an image, on the oracle's device.
        journal: answers of an earlier start, and where new ones go.
        progress: called after each batch with (samples asked, samples in all); a GPU may lag behind by a second.

    Returns:
        (B, P, K) int64, on the CPU.

    Raises:
        VictimError: the victim answered NaN or a class outside 0..K-1.
    """
    images = images.to(oracle.device, torch.float32)
    samples = sum(phases)
    total, done, checked = len(images) * samples, 0, -torch.inf
    ends = torch.tensor(phases, device=oracle.device).cumsum(0)
    # Two more columns: classes outside 0..K-1, and NaN. Faults are counted like votes, so no batch need be waited for.
    counts = torch.zeros(len(images), len(phases), num_classes + 2, dtype=torch.int64, device=oracle.device)
    for batch in noisy_batches(images, sigma, samples, streams, oracle.batch_size(images)):
        answers = oracle.ask(oracle.prepare(batch), journal)
        labels = answers if answers.ndim == 1 else answers.argmax(1)
        sample = torch.arange(done, done + len(batch), device=oracle.device)
        phase = torch.bucketize(sample % samples, ends, right=True)
        column = torch.where((labels >= 0) & (labels < num_classes), labels, num_classes)
        column.masked_fill_(labels == NAN, num_classes + 1)
        cell = (sample // samples * len(phases) + phase) * (num_classes + 2) + column
        counts.view(-1).scatter_add_(0, cell, torch.ones_like(cell))
        done += len(batch)
        # With a journal at once: a fault is not kept, and no answer may be kept behind a gap.
        if journal is not None or done == total or time.perf_counter() - checked > CHECK_SECONDS:
            _raise_faults(counts, num_classes, done, oracle)
            checked = time.perf_counter()
        if progress is not None:
            progress(done, total)
    return counts[..., :num_classes].cpu()


def _raise_faults(counts: Tensor, num_classes: int, done: int, oracle: Oracle) -> None:
    outside, nan = counts[..., num_classes:].sum((0, 1)).tolist()
    victim = f"victim {name_of(oracle.model)}"
    if nan:
        raise VictimError(
            f"{victim} returned NaN or infinite scores for {nan} of {done} noisy images: "
            "it must answer pixels outside [0, 1] too"
        )
    if outside:
        returns = f" (it returns {oracle.num_classes} scores)" if oracle.num_classes else ""
        raise VictimError(
            f"{victim} answered a class outside 0..{num_classes - 1} for {outside} of {done} noisy images{returns}: "
            f"num_classes={num_classes} must be the number of its classes"
        )
