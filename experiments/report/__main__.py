"""Shows what runs and sweeps came to, in one page.

    python -m experiments.report runs/fashion_mlp runs/published_tables

writes ``report.html``, which needs no other file, ``report.md``, and ``report.csv`` with all
rows, into ``--out``, by default the first folder.
"""

import csv
import io
import json
import pathlib
import sys

from absl import app, flags, logging

from experiments import files
from experiments.report import page, runs
from experiments.results import Row
from experiments.versions import versions

OUT = flags.DEFINE_string("out", None, "Folder to write to; the first run's by default.")
TITLE = flags.DEFINE_string("title", "linjax: report", "The page's heading.")


def main(argv: list[str]) -> None:
    """Writes the report of the folders given."""
    logging.set_verbosity(logging.ERROR)
    if len(argv) < 2:
        raise app.UsageError("name one or more folders of runs")
    try:
        found = [runs.read(pathlib.Path(name)) for name in argv[1:]]
    except runs.NoRun as error:
        sys.exit(str(error))
    out = pathlib.Path(OUT.value or argv[1])
    for file in write(found, out, TITLE.value):
        print(f"report: {file}")


def write(found: list[runs.Run], out: pathlib.Path, title: str) -> list[pathlib.Path]:
    """Writes the page, its Markdown and the rows; returns the files."""
    shown = [runs.together(found), *found] if len(found) > 1 else found
    target = out / "report.html"
    made = versions()
    content = {
        target: page.page(shown, title, made, target),
        out / "report.md": page.markdown(shown, title, made),
        out / "report.csv": table([(run.name, row) for run in found for row in run.rows]),
    }
    for file, text in content.items():
        files.write(file, text.encode())
    return list(content)


def table(rows: list[tuple[str, Row]]) -> str:
    """All rows as comma-separated values; what isn't a single value is JSON."""
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *columns])
    for name, row in rows:
        cells = [row.get(column, "") for column in columns]
        plain = [json.dumps(c) if isinstance(c, list | dict) else c for c in cells]
        writer.writerow([name, *plain])
    return text.getvalue()


if __name__ == "__main__":
    app.run(main)
