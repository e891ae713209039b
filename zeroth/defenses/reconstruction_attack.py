"""The attack on a reconstructor, and the answer of a defended one (ZO-AE-DS, Zhang et al., ICLR 2022, sect. 5.3).

Shapes: B inputs of C x H x W pixels, answers of C' x H' x W' pixels, K draws of noise an input.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from zeroth.oracles import ImageStreams, Oracle, WhiteBoxOracle


def reconstruction_pgd(
    oracle: WhiteBoxOracle,
    inputs: Tensor,
    originals: Tensor,
    *,
    epsilon: float,
    streams: ImageStreams,
    steps: int = 40,
    sigma: float = 0.0,
    noises: int = 1,
    fresh: bool = True,
) -> Tensor:
    r"""Move the inputs of a reconstructor in an l_2 ball so that its answers leave the true images.

    .. math:: \delta \leftarrow \Pi_{\|\delta\|_2 \le \epsilon}
        \left(\delta + \frac{2 \epsilon}{T} \frac{g}{\|g\|_2}\right), \qquad
        g = \nabla_\delta \, \mathrm{MSE}\left(\frac1K \sum_k R(x + \delta + \eta_k),\; x_{true}\right)

    for T steps from a start drawn on the sphere :math:`\|\delta\|_2 = \epsilon`; after each, :math:`x + \delta` is
    clamped to [0, 1]. The last iterate is what is returned, as in the paper; its :math:`\|\delta\|_2` may be below
    :math:`\epsilon`.

    Against the box itself there is no noise. Against a defense with noise of its own this is an expectation over noise:
    K draws stand for what the defender will draw. Fresh ones at each step make the ascent stochastic, the same ones at
    all steps make it deterministic, on the mean of K answers alone.

    Asks ``steps * noises`` queries an input; none for epsilon = 0, which leaves the inputs as they are.

    Args:
        oracle: white-box access to the box, or to the whole defense; one that does not clamp where there is noise.
        inputs: (B, C, H, W) in [0, 1], what the reconstructor takes.
        originals: (B, C', H', W'), what it should answer.
        epsilon: radius, [0, 1] pixels of the inputs.
        streams: the random start, then the noise.
        steps: T.
        sigma: standard deviation of the noise; 0 for none.
        noises: K.
        fresh: draw noise at each step, not once.

    Returns:
        (B, C, H, W) in [0, 1].

    Raises:
        ValueError: an argument is out of range, the inputs leave [0, 1], the oracle clamps noise away, or its
            ``max_batch`` is too small for the copies of one input.
    """
    _check_noise(oracle, sigma, noises)
    if not epsilon >= 0:
        raise ValueError(f"epsilon must be 0 or more in [0, 1] pixels, got {epsilon}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if len(inputs) and not (float(inputs.min()) >= 0 and float(inputs.max()) <= 1):
        raise ValueError(f"inputs must be in [0, 1], got {float(inputs.min()):g} to {float(inputs.max()):g}")
    if noises > (together := oracle.batch_size(inputs)):
        raise ValueError(
            f"noises={noises} copies of an input are asked together, but the oracle takes {together} images at once: "
            "raise max_batch, or lower noises"
        )
    if epsilon == 0:
        return inputs.clone()
    rows, shape = torch.arange(len(inputs)), tuple(inputs.shape[1:])
    points = (inputs + epsilon * streams.sphere(rows, (1, *shape))[:, 0]).clamp(0, 1)
    noise = torch.zeros(len(inputs), 1, *shape, device=inputs.device)
    for step in range(steps):
        if sigma > 0 and (fresh or step == 0):
            noise = sigma * streams.randn(rows, (noises, *shape))
        gradient = _gradient(oracle, points, originals, noise)
        moved = points - inputs + 2 * epsilon / steps * F.normalize(gradient.flatten(1)).view_as(points)
        points = (inputs + torch.renorm(moved, p=2, dim=0, maxnorm=epsilon)).clamp(0, 1)
    return points


def mean_answer(
    oracle: Oracle, inputs: Tensor, *, streams: ImageStreams | None = None, sigma: float = 0.0, noises: int = 1
) -> Tensor:
    """Answer inputs (B, C, H, W) by the mean over noise, the output of a defended reconstructor (the paper takes 10).

    Asks ``noises`` queries an input, one where sigma is 0.

    Args:
        oracle: the defense, or a box without one.
        inputs: (B, C, H, W).
        streams: draw the noise; not needed without any.
        sigma: standard deviation of the noise.
        noises: K.

    Returns:
        (B, C', H', W').

    Raises:
        ValueError: an argument is out of range, or the oracle clamps noise away.
    """
    _check_noise(oracle, sigma, noises)
    if sigma == 0:
        return oracle(inputs)
    if streams is None:
        raise ValueError("streams must be given where sigma > 0: they draw the noise")
    rows, total = torch.arange(len(inputs)), None
    for _ in range(noises):  # one after another: K copies of large images would not fit
        answer = oracle(inputs + sigma * streams.randn(rows, tuple(inputs.shape[1:])))
        total = answer if total is None else total + answer
    assert total is not None  # there is at least one
    return total / noises


def _check_noise(oracle: Oracle, sigma: float, noises: int) -> None:
    if not sigma >= 0:
        raise ValueError(f"sigma must be 0 or more in [0, 1] pixels, got {sigma}")
    if noises < 1 or (noises > 1 and sigma == 0):
        raise ValueError(f"noises must be at least 1, and 1 without noise (sigma = 0), got {noises}")
    if sigma > 0 and oracle.clamp:
        raise ValueError("the oracle clamps what it is asked to [0, 1], noise too: make it with clamp=False")


def _gradient(oracle: WhiteBoxOracle, points: Tensor, originals: Tensor, noise: Tensor) -> Tensor:
    """Differentiate the error (B,) of the mean answers at points (B, C, H, W) + noise (B, K, C, H, W)."""
    copies = noise.shape[1]
    gradients = []
    # The copies of a point are asked in one batch, since its error is that of their mean.
    for rows in torch.arange(len(points)).split(oracle.batch_size(points) // copies):
        truth = originals[rows]

        def error(answers: Tensor, _: slice, truth: Tensor = truth) -> Tensor:
            mean = answers.unflatten(0, (-1, copies)).mean(1)
            # A value a copy, as the oracle wants it; their sum over the copies is the error of the point.
            return (mean - truth).square().flatten(1).mean(1).repeat_interleave(copies) / copies

        asked = (points[rows].unsqueeze(1) + noise[rows]).flatten(0, 1)  # (B, K, C, H, W) -> (B K, C, H, W)
        _, found = oracle.differentiate(asked, error)
        gradients.append(found.unflatten(0, (-1, copies)).sum(1))
    return torch.cat(gradients)
