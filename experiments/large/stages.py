"""What a stage of work takes: seconds, and the most memory that was resident meanwhile."""

import contextlib
import resource
import time
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd


class Stage(NamedTuple):
    """A stage that is over.

    Attributes:
      name: what was done.
      seconds: how long it took.
      peak: most bytes resident meanwhile.
      before: bytes resident when it began.
      formula: how many were expected beside those, 0 where nothing is told.
    """

    name: str
    seconds: float
    peak: int
    before: int
    formula: int = 0


class Stages:
    """A run's stages; prints as a table."""

    def __init__(self) -> None:
        self.done: list[Stage] = []

    @contextlib.contextmanager
    def stage(self, name: str, formula: int = 0) -> Iterator[None]:
        """Measures what is done in a ``with`` block."""
        reset_peak()
        start, before = time.monotonic(), resident("VmRSS")
        yield
        most = max(resident("VmHWM"), before)
        found = Stage(name, time.monotonic() - start, most, before, formula)
        self.done.append(found)
        print(f"{name}: {found.seconds:.0f} s, peak {found.peak / 1e9:.2f} GB", flush=True)

    @property
    def peak(self) -> int:
        """Most bytes resident in any stage."""
        return max(stage.peak for stage in self.done)

    def __repr__(self) -> str:
        rows = [
            (s.name, f"{s.seconds:,.1f}", f"{s.before / 1e9:.3f}", f"{s.peak / 1e9:.3f}",
             f"{(s.peak - s.before) / 1e9:.3f}", f"{s.formula / 1e9:.3f}" if s.formula else "")
            for s in self.done
        ]  # fmt: skip
        heads = ("stage", "seconds", "GB before", "GB at most", "more", "expected")
        total = sum(s.seconds for s in self.done)
        text = pd.DataFrame(rows, columns=list(heads)).to_string(index=False)
        return f"{text}\n{total:,.0f} s, {self.peak / 1e9:.3f} GB at most"


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
