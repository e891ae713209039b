"""Cost against its floor: the rate of a job that queries a victim, beside the victim's own rate in the same process.

The floor is the best plain rate over batch sizes, at the same float32 precision, measured before and after the job; the
better of the two counts, so that a machine that gets busy meanwhile does not flatter the job. It is that of a forward,
and for the images whose gradient was asked that of a forward with its backward.
"""

import contextlib
import logging
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from zeroth.oracles.oracle import exact_float32

# torch.utils.benchmark brings torch's compiler of extensions, which warns of a CUDA toolkit without a GPU as soon as it
# is imported; nothing is compiled here. Only that logger is silenced, and only for the import.
_compiler = logging.getLogger("torch.utils.cpp_extension")
_compiler.disabled = True
from torch.utils.benchmark import Timer  # noqa: E402

_compiler.disabled = False

MIB = 2**20
# On CPU small batches win (they stay in the cache); a GPU is not full at 1,024 small images.
BATCHES = {"cpu": (16, 32, 64, 128, 256, 512, 1024), "cuda": (1024, 2048, 4096, 8192, 16384)}

# A job attacks or certifies a number of images and spends about the given number of queries in all.
Job = Callable[[int, int], None]


class TimedVictim(nn.Module):
    """Counts the images that the network sees and the seconds that it takes; in place of the network as a victim.

    A backward counts too: from the end of the forward until the images have their gradient.

    On a GPU the seconds are those of the device, between events, so that the job's overlap of host and device is kept.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.reset()
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.network.parameters()).device

    def reset(self) -> None:
        """Begin to count from zero."""
        self.images, self.differentiated, self._seconds = 0, 0, 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @property
    def seconds(self) -> float:
        """Seconds inside the network since the last reset; waits for the device."""
        if self._events:
            torch.cuda.synchronize()
        return self._seconds + sum(begin.elapsed_time(end) for begin, end in self._events) / 1000

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        stop = self._clock(images)
        scores = self.network(images)
        stop()
        if images.requires_grad:
            self.differentiated += len(images)
            stop_backward = self._clock(images)
            images.register_hook(lambda _: stop_backward())
        return scores

    def _clock(self, images: Tensor) -> Callable[[], None]:
        """Start a clock; the function that comes back stops it and adds what it shows."""
        if images.is_cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()

            def stop() -> None:
                end.record()
                self._events.append((begin, end))

        else:
            start = time.perf_counter()

            def stop() -> None:
                self._seconds += time.perf_counter() - start

        return stop


@dataclass(frozen=True)
class Cost:
    """What a job cost.

    Attributes:
        images: images attacked or certified.
        queries: images that the victim saw.
        seconds: wall clock of the job.
        inside: seconds of it inside the victim.
        floor: the victim's best plain rate, images a second.
        memory: bytes at the job's peak above what was held before it.
        differentiated: those of the queries whose gradient was asked.
    """

    images: int
    queries: int
    seconds: float
    inside: float
    floor: float
    memory: int
    differentiated: int = 0

    @property
    def rate(self) -> float:
        """Queries a second."""
        return self.queries / self.seconds

    @property
    def ratio(self) -> float:
        """Rate as a share of the floor."""
        return self.rate / self.floor

    @property
    def outside(self) -> float:
        """Share of the time spent outside the victim."""
        return 1 - self.inside / self.seconds


def floor_rate(
    network: nn.Module, shape: tuple[int, int, int], *, seconds: float = 0.3, gradient: bool = False
) -> tuple[float, int]:
    """Measure the plain batched forward, or forward and backward: (images a second, the batch size that reached it).

    Args:
        network: in eval mode.
        shape: (C, H, W).
        seconds: measured at least so long at each batch size.
        gradient: with the gradient of a score at the images.
    """
    device = next(network.parameters()).device
    best = (0.0, 0)
    job = "torch.autograd.grad(network(images)[:, 0].sum(), images)" if gradient else "network(images)"
    with torch.set_grad_enabled(gradient), exact_float32():
        for batch in BATCHES[device.type]:
            images = torch.rand(batch, *shape, device=device, requires_grad=gradient)
            names = {"torch": torch, "network": network, "images": images}
            # Timer takes one thread unless told; it waits for a GPU by itself.
            timer = Timer(job, globals=names, num_threads=torch.get_num_threads())
            best = max(best, (batch / timer.blocked_autorange(min_run_time=seconds).median, batch))
    return best


def reset_peak(device: torch.device) -> int:
    """Begin to look for a new peak; return the bytes held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    # Linux: sets the peak back to what is resident now. Elsewhere it stays the peak of the process so far.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak(device)


def peak(device: torch.device) -> int:
    """Most bytes held since :func:`reset_peak`: the device's for a GPU, else the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(job: Job, victim: TimedVictim, images: int, queries: int, floor: float) -> Cost:
    """Run a job once. ``floor`` is the rate measured before it; :func:`sweep` sets it right afterwards."""
    device = victim.device
    victim.reset()
    held = reset_peak(device)
    start = time.perf_counter()
    job(images, queries)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall = time.perf_counter() - start
    return Cost(images, victim.images, wall, victim.seconds, floor, peak(device) - held, victim.differentiated)


def _floors(network: nn.Module, shape: tuple[int, int, int], gradient: bool) -> tuple[float, float]:
    """Return the plain rates of a forward and, where it is wanted, of a forward with its backward."""
    forward, _ = floor_rate(network, shape)
    return forward, floor_rate(network, shape, gradient=True)[0] if gradient else forward


def sweep(
    jobs: Sequence[tuple[Job, int]],
    victim: TimedVictim,
    shape: tuple[int, int, int],
    *,
    seconds: float,
    gradient: bool = False,
) -> list[Cost]:
    """Run jobs, each for its number of images and about ``seconds``, with a floor before and after each.

    Args:
        jobs: (job, number of images).
        victim: what the jobs ask.
        shape: (C, H, W).
        seconds: about how long a job is measured, by the floor before it.
        gradient: whether the jobs ask gradients.
    """
    before = _floors(victim.network, shape, gradient)
    costs, warm = [], set()
    for job, images in jobs:
        if job not in warm:
            job(min(10, max(count for other, count in jobs if other is job)), 1000)  # pays for lazy set-up
            warm.add(job)
        cost = measure(job, victim, images, round(seconds * min(before)), before[0])
        after = _floors(victim.network, shape, gradient)
        forward, backward = (max(pair) for pair in zip(before, after, strict=True))
        plain = (cost.queries - cost.differentiated) / forward + cost.differentiated / backward  # seconds
        costs.append(replace(cost, floor=cost.queries / plain))
        before = after
    return costs


def devices() -> list[torch.device]:
    """The CPU, and the GPU where there is one."""
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def device_name(device: torch.device) -> str:
    """The GPU's name, or how many threads the CPU is used with."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, threads: {torch.get_num_threads()}"


def show(title: str, costs: Sequence[Cost], names: Sequence[str] | None = None) -> None:
    """Print costs as a table; "outside" is the share of time outside the victim, "MiB" the peak above what was held."""
    table = Table(title=title, title_justify="left")
    if names is not None:
        table.add_column("attack", overflow="fold")
    for column in ("images", "queries", "queries/s", "floor/s", "ratio", "outside", "MiB"):
        table.add_column(column, justify="right")
    for row, cost in enumerate(costs):
        table.add_row(
            *([] if names is None else [names[row]]),
            f"{cost.images:,}",
            f"{cost.queries:,}",
            f"{cost.rate:,.0f}",
            f"{cost.floor:,.0f}",
            f"{cost.ratio:.2f}",
            f"{cost.outside:.1%}",
            f"{cost.memory / MIB:,.0f}",
        )
    Console().print(table)
