"""When trajectories begin and end, and on which problems: functions of plain numbers, which a resumed training repeats.

Shapes: n slots.
"""

import torch
from torch import Tensor

from zeroth.oracles import ImageStreams
from zeroth.oracles.streams import derived_seed

# What a training's seed is derived for, beyond the purposes of zeroth.meta's other modules.
ORDER = 14


def rows_of(slots: Tensor, numbers: Tensor, *, total: int, count: int, seed: int) -> Tensor:
    """Return the problems (n,) that trajectories take; those of one round are different as far as there are as many.

    Args:
        slots: (n,), of ``total``.
        numbers: (n,), of the trajectories: slot s begins with s, and each further one adds ``total``.
        total: slots, of all processes.
        count: problems.
        seed: decides the order of each round.
    """
    rows = []
    for slot, number in zip(slots.tolist(), numbers.tolist(), strict=True):
        generator = ImageStreams(derived_seed(seed, ORDER), [number // total]).generator(0)
        rows.append(int(torch.randperm(count, generator=generator)[slot % count]))
    return torch.tensor(rows)


def ending(slots: Tensor, *, taken: int, windows: int, total: int) -> Tensor:
    """Return whether slots' trajectories end when ``taken`` windows have been taken, (n,) bool.

    Slots end at different steps, as evenly as can be, so that a step sees all ages. Their first trajectories end early
    for it; what is true of each trajectory is that it has at most ``windows`` windows.
    """
    return (taken + slots * windows // total) % windows == 0
