"""What a stage of work takes: seconds, and the most memory that was resident meanwhile."""

import contextlib
import resource
import time
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd


class Stage(NamedTuple):
    """A stage that is over: bytes resident when it began and at most, and how many more were
    expected, 0 where nothing is told."""

    name: str
    seconds: float
    before: int
    peak: int
    expected: int = 0


class Stages:
    """A run's stages; prints as a table."""

    def __init__(self) -> None:
        self.done: list[Stage] = []

    @contextlib.contextmanager
    def stage(self, name: str, expected: int = 0) -> Iterator[None]:
        """Measures what is done in a ``with`` block."""
        reset_peak()
        start, before = time.monotonic(), resident("VmRSS")
        yield
        most = max(resident("VmHWM"), before)
        self.done.append(Stage(name, time.monotonic() - start, before, most, expected))
        print(f"{name}: {self.done[-1].seconds:.0f} s, peak {most / 1e9:.2f} GB", flush=True)

    @property
    def peak(self) -> int:
        """Most bytes resident in any stage."""
        return max(stage.peak for stage in self.done)

    def __repr__(self) -> str:
        rows = [(s.name, s.seconds, *(x / 1e9 for x in (s.before, s.peak, s.peak - s.before)),
                 s.expected / 1e9 or None) for s in self.done]  # fmt: skip
        heads = ["stage", "seconds", "GB before", "at most", "more", "expected"]
        found = pd.DataFrame(rows, columns=heads)
        text = found.to_string(index=False, float_format="{:,.3f}".format, na_rep="")
        return f"{text}\n{found['seconds'].sum():,.0f} s, {self.peak / 1e9:.3f} GB at most"


def resident(what: str) -> int:
    """Bytes that are resident now (``VmRSS``), or were at most (``VmHWM``)."""
    try:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith(f"{what}:"))
        return int(line.split()[1]) * 1024
    except OSError:  # not Linux: what there was at most since the process began
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def reset_peak() -> None:
    """Lets Linux forget what was resident at most so far."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
