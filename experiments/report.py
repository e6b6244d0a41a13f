"""Shows what runs and sweeps came to, in one page.

    python -m experiments.report runs/fashion_mlp runs/published_tables

writes ``report.html``, which needs no other file, into ``--out``, by default the first folder.
"""

import colorsys
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from absl import app, flags, logging

from experiments import charts, drawings, files, journal, table
from experiments.journal import Row, versions

OUT = flags.DEFINE_string("out", None, "Folder to write to; the first run's by default.")
TITLE = flags.DEFINE_string("title", "linjax: report", "The page's heading.")

HERE = pathlib.Path(__file__).parent


class NoRun(Exception):
    """A folder holds no results."""


class Run(NamedTuple):
    """A folder's content.

    Attributes:
      name: the folder's name.
      folder: where it is.
      config: the config's fields.
      versions: what it ran on, empty where nobody noted it.
      rows: its rows, also of what failed; a row's ``task`` says which network it is about.
    """

    name: str
    folder: pathlib.Path
    config: dict[str, Any]
    versions: dict[str, str]
    rows: list[Row]

    @property
    def title(self) -> str:
        """Data and network in words."""
        data, hidden = self.config.get("dataset.name"), self.config.get("network.hidden")
        tables = {str(row["task"].get("dataset.name", data)) for row in table.good(self.rows)}
        what = f"{len(tables)} data sets" if len(tables) > 1 else next(iter(tables), str(data))
        kind = self.config.get("network.kind", "mlp")
        if kind != "mlp":
            return f"{what}, {kind}"
        return what if hidden is None else f"{what}, hidden layers {'-'.join(map(str, hidden))}"

    @property
    def by(self) -> tuple[str, ...]:
        """What tables tell apart."""
        return tuple(self.config.get("by", table.BY))

    @property
    def settings(self) -> list[tuple[str, str]]:
        """What the networks differ in, and the values."""
        tasks = pd.DataFrame([row["task"] for row in table.good(self.rows)], dtype=object)
        return [(name, ", ".join(map(str, dict.fromkeys(tasks[name].map(str))))) for name in tasks]


def read(folder: pathlib.Path) -> Run:
    """Reads the folder of a run or of a sweep.

    Raises:
      NoRun: if there are no results in it.
    """
    rows = journal.read(folder)
    if not table.good(rows):
        raise NoRun(f"{folder} holds no results of experiments.main")
    config, made = (_json(folder / f"{name}.json") for name in ("config", "versions"))
    return Run(folder.resolve().name, folder, config, made, rows)


def _json(file: pathlib.Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


def write(found: list[Run], out: pathlib.Path, title: str) -> pathlib.Path:
    """Writes the page; returns its file."""
    files.write(out / "report.html", page(found, title, out).encode())
    return out / "report.html"


def style() -> str:
    """The page's style; what charts are drawn with is lighter on dark paper."""
    own = {name: c for name, c in charts.colours().items() if name not in ("ink", "soft", "grid")}
    light = " ".join(f"--{name}: {c};" for name, c in own.items() if name != "faint")
    dark = " ".join(f"--{name}: {_lighter(c)};" for name, c in own.items() if name != "faint")
    text = (HERE / "report.css").read_text()
    return text.replace("LIGHT_COLOURS", light).replace("DARK_COLOURS", dark)


def _lighter(colour: str) -> str:
    r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, full = colorsys.rgb_to_hls(r, g, b)
    mixed = colorsys.hls_to_rgb(hue, 0.45 + light / 2, full)
    return "#" + "".join(f"{round(255 * part):02x}" for part in mixed)


def page(runs: Sequence[Run], title: str, out: pathlib.Path) -> str:
    """Returns the page as HTML that needs no other file; links are relative to ``out``."""
    loader = jinja2.FileSystemLoader(HERE)
    made = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.globals |= {"svg": charts.svg, "charts": drawings.charts, "listed": _listed,
                     "relative": os.path.relpath, "words": _words, "table": table}  # fmt: skip
    return made.get_template("report.html").render(
        runs=runs, title=title, out=out, style=style(), versions=_listed(versions())
    )


def _words(run: Run) -> pd.DataFrame:
    return table.shown(table.summarise(run.rows, run.by))


def _listed(made: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in made.items())


def main(argv: list[str]) -> None:
    """Writes the report of the folders given."""
    logging.set_verbosity(logging.ERROR)
    if len(argv) < 2:
        raise app.UsageError("name one or more folders of runs")
    try:
        found = [read(pathlib.Path(name)) for name in argv[1:]]
    except NoRun as error:
        sys.exit(str(error))
    print(f"report: {write(found, pathlib.Path(OUT.value or argv[1]), TITLE.value)}")


if __name__ == "__main__":
    app.run(main)
