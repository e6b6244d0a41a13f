"""The page: HTML with its style inside, and the same in Markdown."""

import html
import os
import pathlib
from collections.abc import Sequence

from experiments.markdown import tabulated
from experiments.report import figures, lines, tables
from experiments.report.parts import Figure, Table
from experiments.report.runs import Run

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #59636e; --faint: #d8dee4;
  --grid: #eceff2; --card: #f7f8fa; --kept: #0072b2; --linear: #56b4e9; --removed: #d8dee4;
  --on: #d55e00; --c0: #d55e00; --c1: #b27700; --c2: #0072b2; --c3: #00845e; --c4: #b0568a;
  --c5: #7a4a12; --c6: #6a5fa8; --c7: #4d4d4d; --c8: #8a8a8a; --c9: #3f8fb0; }
@media (prefers-color-scheme: dark) { :root:not([data-theme=light]) { DARK } }
:root[data-theme=dark] { color-scheme: dark; DARK }
:root[data-theme=light] { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 1120px; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "Liberation Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.3rem; margin: 2.6rem 0 .3rem;
  padding-top: 1rem; border-top: 1px solid var(--faint); }
h3 { font-size: 1rem; margin: 0 0 .2rem; } p { margin: .3rem 0; }
a { color: inherit; } .soft, figcaption, .legend { color: var(--soft); font-size: .87rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .18rem .7rem .18rem 0; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--faint); }
th.word, td.word { text-align: left; } tbody tr:hover { background: var(--card); }
tr.first td { border-top: 1px solid var(--grid); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr));
  gap: 1.4rem; margin: 1rem 0; align-items: start; }
figure { margin: 0; break-inside: avoid; min-width: 0; } figure.wide { grid-column: 1 / -1; }
svg { display: block; width: 100%; height: auto; }
.small { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: .6rem; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; } .legend span { white-space: nowrap; }
svg.key { display: inline-block; width: 12px; height: 12px; margin-right: .35rem; }
text { font: 12px system-ui, "Segoe UI", "Liberation Sans", sans-serif; fill: var(--ink); }
text.tick { fill: var(--soft); font-size: 11.5px; }
.grid { stroke: var(--grid); } .axis { stroke: var(--soft); }
.reference { stroke: var(--soft); stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 1.8; } .bar { stroke: var(--soft); stroke-width: 1.1; }
.whisker { stroke: var(--soft); } .median { stroke: var(--ink); stroke-width: 2; }
.box { fill-opacity: .35; } .kept { fill: var(--kept); } .linear { fill: var(--linear); }
.removed { fill: var(--removed); } .on { fill: var(--on); }
LOOKS
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--soft); }
pre { overflow-x: auto; font-size: .8rem; background: var(--card); padding: .8rem; }
button { float: right; font: inherit; font-size: .85rem; color: var(--soft); cursor: pointer;
  background: none; border: 1px solid var(--faint); border-radius: 6px; padding: .2rem .6rem; }
nav ul { padding-left: 1.1rem; margin: .4rem 0; }
@media print { :root { color-scheme: light; } button, nav { display: none; }
  body { max-width: none; padding: 0; font-size: 11pt; } h2 { break-before: auto; }
  h2, h3 { break-after: avoid; } .scroll { overflow: visible; } table { font-size: 8pt; }
  th, td { padding-right: .4rem; } .figures { display: block; }
  figure { display: inline-block; width: 49%; vertical-align: top; margin-bottom: .8rem; }
  figure.wide { display: block; width: auto; } figure.wide svg { max-height: 21cm; } }
"""
DARK = """--paper: #14171b; --ink: #e6e9ec; --soft: #9aa4af; --faint: #353c44; --grid: #242a31;
  --card: #1c2127; --kept: #3fa7e0; --linear: #8fd3ff; --removed: #353c44; --on: #ff8a3d;
  --c0: #ff8a3d; --c1: #e3a92b; --c2: #4aaee8; --c3: #35c79b; --c4: #e08abf; --c5: #c98a4b;
  --c6: #a79be0; --c7: #c4c4c4; --c8: #8f979f; --c9: #7cc4dd;"""
PRINT = """@media print { :root, :root:not([data-theme=light]), :root[data-theme=dark] {
  --paper: #fff; --ink: #000; --soft: #444; --faint: #bbb; --grid: #e4e4e4; --card: #fff;
  --kept: #0072b2; --linear: #56b4e9; --removed: #d8dee4; --on: #d55e00; --c0: #d55e00;
  --c1: #b27700; --c2: #0072b2; --c3: #00845e; --c4: #b0568a; --c5: #7a4a12; --c6: #6a5fa8;
  --c7: #4d4d4d; --c8: #8a8a8a; --c9: #3f8fb0; } }"""
SCRIPT = """
const root = document.documentElement;
document.querySelector("button").onclick = () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
};
"""


def style() -> str:
    """The page's style."""
    looks = "\n".join(
        f".c{i} {{ stroke: var(--c{i}); }} .mark.c{i}, .box.c{i} {{ fill: var(--c{i}); }}"
        for i in range(lines.COLOURS)
    )
    return STYLE.replace("DARK", DARK).replace("LOOKS", looks) + PRINT


def page(runs: Sequence[Run], title: str, versions: dict[str, str], out: pathlib.Path) -> str:
    """Returns the page as HTML that needs no other file.

    Args:
      runs: what to show, in order.
      title: its heading.
      versions: what the page was made with.
      out: where it will be: links to configs are relative to there.
    """
    entries = "".join(
        f'<li><a href="#run-{i}">{html.escape(run.name)}</a>: {html.escape(run.title)}</li>'
        for i, run in enumerate(runs)
    )
    sections = "".join(_section(run, f"run-{i}", out) for i, run in enumerate(runs))
    made = ", ".join(f"{k} {v}" for k, v in versions.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style()}</style></head><body>"
        f"<button>light / dark</button><h1>{html.escape(title)}</h1>"
        f'<p class="soft">Made with {html.escape(made)}.</p><nav><ul>{entries}</ul></nav>'
        f"{sections}<script>{SCRIPT}</script></body></html>\n"
    )


def _section(run: Run, anchor: str, out: pathlib.Path) -> str:
    parts = [f'<section id="{anchor}"><h2>{html.escape(run.name)}</h2>']
    parts.append(f"<p>{html.escape(run.title)}.</p>")
    if run.versions:
        made = ", ".join(f"{k} {v}" for k, v in run.versions.items())
        parts.append(f'<p class="soft">Run with {html.escape(made)}.</p>')
    for name, values in tables.settings_of(run):
        parts.append(f'<p class="soft"><b>{html.escape(name)}</b>: {html.escape(values)}</p>')
    if run.failures:
        parts.append(f"<details><summary>{len(run.failures)} failed</summary><pre>")
        parts += [html.escape(f"{r['task']} {r['rule']}: {r['failure']}\n") for r in run.failures]
        parts.append("</pre></details>")
    drawn = figures.figures(run)
    parts.append(f'<div class="figures">{"".join(map(_figure, drawn))}</div>')
    parts.append(_table(tables.table(run)))
    if run.config and run.name == run.folder.resolve().name:
        link = html.escape(os.path.relpath(run.folder / "config.json", out.parent))
        fields = "\n".join(f"{name} = {value!r}" for name, value in sorted(run.config.items()))
        parts.append(
            f'<details><summary>Config</summary><p class="soft"><a href="{link}">{link}</a></p>'
            f"<pre>{html.escape(fields)}</pre></details>"
        )
    return "".join(parts) + "</section>"


def _figure(figure: Figure) -> str:
    kind = ' class="wide"' if figure.wide else ""
    return (
        f"<figure{kind}><h3>{html.escape(figure.title)}</h3>{figure.legend}{figure.drawing}"
        f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str, kind: str = "") -> str:
        made = "".join(
            f"<{tag}{' class=word' if i < table.words else ''}>{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(cells)
        )
        return f"<tr{kind}>{made}</tr>"

    body, last = [], None
    for cells in table.rows:
        group = tuple(cells[: table.words])
        body.append(row(cells, "td", "" if group == last else ' class="first"'))
        last = group
    return (
        f'<div class="scroll"><table><thead>{row(table.columns, "th")}</thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def markdown(runs: Sequence[Run], title: str, versions: dict[str, str]) -> str:
    """Returns the same without drawings."""
    lines = [f"# {title}", "", f"Made with {', '.join(f'{k} {v}' for k, v in versions.items())}."]
    for run in runs:
        lines += ["", f"## {run.name}", "", f"{run.title}."]
        if run.versions:
            lines += ["", f"Run with {', '.join(f'{k} {v}' for k, v in run.versions.items())}."]
        table = tables.table(run)
        words = table.columns[: table.words]
        lines += ["", tabulated(table.columns, table.rows, words)]
        lines += [f"\nFailed: {r['task']} {r['rule']}: {r['failure']}" for r in run.failures]
    return "\n".join(lines) + "\n"
