"""The charts of results, each drawn once: as pictures of a run and, with words, in reports."""

import io
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from experiments import files

INK, SOFT, FAINT, GRID = "#222222", "#7a7a7a", "#d9d9d9", "#ebebeb"
KEPT, LINEAR, ON = "#0072b1", "#56b4e8", "#d55e01"
# Okabe & Ito's palette first, a marker beside each colour.
COLOURS = (
    "#d55e00", "#e69f00", "#0072b2", "#56b4e9", "#cc79a7", "#009e73", "#9c5a1a", "#5b2a86",
    "#a65e9a", "#b8860b", "#c71585", "#cd5c5c", "#6b8e23", "#7a6fb3", "#b8a9d9", "#8a8a8a",
)  # fmt: skip
STYLE: dict[Any, Any] = {
    "font.size": 10, "axes.edgecolor": SOFT, "axes.spines.top": False, "axes.spines.right": False,
    "axes.labelcolor": INK, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.grid": True,
    "grid.color": GRID, "axes.axisbelow": True, "xtick.color": INK, "ytick.color": INK,
    "text.color": INK, "savefig.dpi": 150, "svg.fonttype": "none", "legend.frameon": False,
    "legend.fontsize": 9, "figure.constrained_layout.use": True, "svg.hashsalt": "linjax",
}  # fmt: skip


class Chart(NamedTuple):
    """A chart: ``draw(figure, tips)``, its size in inches, and what it shows in words.

    ``tips`` collects words for the pointer; a mark whose id is ``tip:i`` has the i-th.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Figure, list[str]], None]
    size: tuple[float, float] = (10.0, 4.4)


def write(folder: pathlib.Path, charts: Iterable[Chart]) -> list[pathlib.Path]:
    """Draws charts as pictures, and returns their files."""
    written = []
    for chart in charts:
        path, buffer = folder / f"{chart.name}.png", io.BytesIO()
        with matplotlib.rc_context(STYLE):
            figure, _ = _drawn(chart)
            figure.suptitle(chart.title, x=0.01, ha="left", size=12)
            figure.savefig(buffer)
        files.write(path, buffer.getvalue())
        written.append(path)
    return written


def svg(chart: Chart) -> str:
    """A chart for a page: its colours are the page's variables, see :func:`colours`."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": chart.name}):
        figure, tips = _drawn(chart)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="(?!tip:|[mpc][0-9a-f]{9})[^"]*"', "", text)

    def words(found: re.Match[str]) -> str:
        said = tips[int(found[1])].replace("&", "&amp;").replace("<", "&lt;")
        return f"<g><title>{said}</title>"

    text = re.sub(r'<g id="tip:(\d+)">', words, text)
    for name, colour in colours().items():
        text = re.sub(rf"(?<=: ){colour}\b", f"var(--{name})", text, flags=re.IGNORECASE)
    text = re.sub(r' (width|height)="[^"]*pt"', "", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{chart.title}" ', 1)


def colours() -> dict[str, str]:
    """By name of a page's variable the colour that charts are drawn with."""
    named = {"ink": INK, "soft": SOFT, "faint": FAINT, "grid": GRID, "kept": KEPT,
             "linear": LINEAR, "on": ON}  # fmt: skip
    return named | {f"c{i}": colour for i, colour in enumerate(COLOURS)}


def _drawn(chart: Chart) -> tuple[Figure, list[str]]:
    figure, tips = Figure(figsize=chart.size), list[str]()
    chart.draw(figure, tips)
    return figure, tips
