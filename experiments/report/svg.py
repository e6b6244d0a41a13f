"""Scalable drawings whose colours come from the page, so that they suit light, dark and print."""

import html
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

MARKS = ("circle", "square", "diamond", "up", "down", "cross")


class Scale(NamedTuple):
    """Maps values to places: ``low`` to ``start``, ``high`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (self._bent(v) for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high != low else 0.5
        return self.start + share * (self.end - self.start)

    def _bent(self, value: float) -> float:
        return math.log(max(value, 1e-300)) if self.log else value


def text(
    x: float, y: float, words: str, anchor: str = "start", kind: str = "label", turn: float = 0
) -> str:
    """Text at a place."""
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>'
        f"{html.escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def path(points: Sequence[tuple[float, float]], look: int) -> str:
    """A line through points."""
    steps = " ".join(f"{'M' if i == 0 else 'L'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
    return f'<path class="line c{look}" d="{steps}"/>'


def rectangle(x: float, y: float, width: float, height: float, kind: str, words: str = "") -> str:
    """A rectangle; the words are shown by the pointer."""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" '
        f'height="{max(height, 0):.1f}">{_title(words)}</rect>'
    )


def mark(x: float, y: float, look: int, words: str = "", size: float = 4.2) -> str:
    """A point's mark: shape and colour by ``look``."""
    r, d = size, 1.4 * size
    shapes: dict[str, Callable[[], str]] = {
        "circle": lambda: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"',
        "square": lambda: _polygon([(-r, -r), (r, -r), (r, r), (-r, r)], x, y),
        "diamond": lambda: _polygon([(0, -d), (d, 0), (0, d), (-d, 0)], x, y),
        "up": lambda: _polygon([(0, -1.3 * r), (1.2 * r, r), (-1.2 * r, r)], x, y),
        "down": lambda: _polygon([(0, 1.3 * r), (1.2 * r, -r), (-1.2 * r, -r)], x, y),
        "cross": lambda: _polygon(
            [(-r, -0.4 * r), (r, -0.4 * r), (r, 0.4 * r), (-r, 0.4 * r)], x, y
        ),
    }  # fmt: skip
    return f'{shapes[MARKS[look % len(MARKS)]]()} class="mark c{look}">{_title(words)}{_end(look)}'


def _end(look: int) -> str:
    return "</circle>" if MARKS[look % len(MARKS)] == "circle" else "</polygon>"


def _polygon(corners: Sequence[tuple[float, float]], x: float, y: float) -> str:
    places = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{places}"'


def _title(words: str) -> str:
    return f"<title>{html.escape(words)}</title>" if words else ""


def drawing(parts: Sequence[str], width: float, height: float, words: str) -> str:
    """A whole drawing; the words say what it shows to those who can't see it."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{html.escape(words)}" style="max-width:{width:.0f}px">'
        f"{''.join(parts)}</svg>"
    )


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two.

    >>> ticks(0.0, 1.0, 4)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.8)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def decades(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: 1, 2 and 5 times powers of ten, or powers alone if many.

    >>> decades(0.03, 1.0)
    [0.05, 0.1, 0.2, 0.5, 1.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    found = [float(f"{s}e{power}") for power in range(first, last + 1) for s in steps]
    return [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
