"""Every block of Python in the documentation runs, page by page."""

import contextlib
import doctest
import importlib.util
import io
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(python|text)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
OPTIONAL = re.compile(r"^import (onnxruntime|qwix)$", re.MULTILINE)
"""Packages that a block may need; no other block needs what it makes."""


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """Kind, content and line of every block of code or output."""
    text = page.read_text()
    return [
        (kind, textwrap.dedent(body), text.count("\n", 0, match.start()) + 2)
        for match in FENCE.finditer(text)
        for _, kind, body in [match.groups()]
    ]


WITH_CODE = [page for page in PAGES if any(kind == "python" for kind, _, _ in blocks(page))]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_runs_and_prints_what_the_page_says(page, monkeypatch, tmp_path):
    """A block of text behind a block of code is what the code prints, ``...`` for anything."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__page__"} | (readers_own() if page.name == "README.md" else {})
    printed, missing = "", set[str]()
    for kind, body, line in blocks(page):
        if kind == "python":
            absent = {name for name in OPTIONAL.findall(body) if not importlib.util.find_spec(name)}
            missing |= absent
            printed = None if absent else output(body, line, page, names)
        elif printed is not None:
            assert doctest.OutputChecker().check_output(body, printed, LOOSELY), (
                f"{page}:{line} says\n{body}\nbut the code prints\n{printed}"
            )
    if missing:
        pytest.skip(f"all else on the page ran; not installed: {', '.join(sorted(missing))}")


def output(body: str, line: int, page: Path, names: dict[str, object]) -> str:
    """Runs a block and returns what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile("\n" * (line - 1) + body, page, "exec"), names)
    return out.getvalue()


def readers_own() -> dict[str, object]:
    """What the example in README takes for granted: a model and data."""
    import jax
    from flax import nnx

    model = nnx.Sequential(
        nnx.Linear(8, 64, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(64, 3, rngs=nnx.Rngs(1))
    )
    x = jax.random.normal(jax.random.key(0), (256, 8))
    return {"model": model, "x": x, "batches": [x[:128], x[128:]]}
