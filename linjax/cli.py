"""The ``linjax`` command: look at saved networks, export them, fold them further."""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import linjax
from linjax.errors import LinjaxError
from linjax.graph import table
from linjax.graph.structure import join
from linjax.store import codec, files
from linjax.store.check import contents
from linjax.store.export import PLATFORMS, restrict
from linjax.store.manifest import Manifest

EPILOG = "Exit codes: 0 done, 1 refused (one line says why and what to do), 2 wrong usage."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: what follows the command's name; by default those of the process.

    Returns:
      The exit code: 0, or 1 after an error in one line on stderr. Wrong usage exits with 2.

    Example:
      >>> main(["inspect", "nowhere.safetensors"])
      1
    """
    options = _parser().parse_args(arguments)
    try:
        found, text = options.run(options)
    except (LinjaxError, OSError) as error:
        print(f"linjax: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2) if options.json else text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="linjax", description="Smaller networks without retraining.", epilog=EPILOG
    )
    parser.add_argument("--version", action="version", version=f"linjax {linjax.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[..., Any], text: str) -> argparse.ArgumentParser:
        name = run.__name__.removeprefix("_")
        sub = commands.add_parser(name, help=text, description=text, epilog=EPILOG)
        sub.add_argument("path", metavar="PATH", help="a file that linjax.save wrote")
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        sub.set_defaults(run=run)
        return sub

    command(_inspect, "Show a saved network: sites, refusals, parameters, sizes.")
    sub = command(_export, "Write the StableHLO program of a saved network, by jax.export.")
    sub.add_argument("--to", required=True, metavar="FILE", help="where to write it")
    sub.add_argument(
        "--platforms",
        default=",".join(PLATFORMS),
        metavar="NAMES",
        help="where it is to run, separated by commas (default: %(default)s)",
    )
    sub = command(_fold, "Fold a saved network further on calibration data.")
    sub.add_argument("--data", required=True, metavar="FILE", help="inputs, an .npy or .npz file")
    sub.add_argument(
        "--apply",
        required=True,
        metavar="MODULE:FUNCTION",
        help="the network's function(params, *inputs); a stored program can't be traced",
    )
    sub.add_argument("--to", required=True, metavar="FILE", help="where to save the result")
    sub.add_argument("--batch", type=int, default=1024, metavar="N", help="rows at a time")
    rule = sub.add_mutually_exclusive_group(required=True)
    for name, text in (
        ("size", "share of the parameters to reach, as 0.1"),
        ("threshold", "activation rate from which units fold, as 0.95"),
        ("tolerance", "largest relative output error, as 0.01"),
    ):
        rule.add_argument(f"--{name}", type=float, metavar="X", help=text)
    return parser


def _inspect(options: argparse.Namespace) -> tuple[Any, str]:
    path = files.place(options.path)
    with files.opened(path) as (file, size):
        manifest = contents(file, size).manifest
    return {"bytes": size, **codec.encode(manifest)}, _summary(manifest, size)


def _summary(manifest: Manifest, size: int) -> str:
    now = manifest.provenance
    lines = [
        table.describe(manifest.graph),
        f"stored: {now.after:,} of {now.before:,} parameters "
        f"({now.after / max(now.before, 1):.2%}), {size:,} bytes",
    ]
    if now.predicted is not None:
        lines.append(f"predicted relative output error {now.predicted:.3g}")
    if manifest.program.present:
        batch = manifest.program.batch
        free = "any batch size" if batch is None else f"a batch of {batch} only"
        lines.append(f"program for {', '.join(manifest.program.platforms)}, {free}")
    else:
        lines.append(f"no program: {manifest.program.reason}")
    rows = [(join(leaf.path), leaf.dtype, leaf.shape) for leaf in manifest.leaves]
    lines.append(table.grid(("parameter", "dtype", "shape"), rows))
    return "\n".join(lines)


def _export(options: argparse.Namespace) -> tuple[Any, str]:
    path = files.place(options.to)
    if os.path.lexists(path):
        raise LinjaxError(f"{path}: exists; give another path or remove it")
    net, _ = linjax.load(options.path)
    code = restrict(net.exported, tuple(options.platforms.split(",")))
    files.replace(path, lambda file: file.write(code))
    found = {"file": str(path), "bytes": len(code), "platforms": options.platforms.split(",")}
    return found, f"{path}: {len(code):,} bytes for {options.platforms}"


def _fold(options: argparse.Namespace) -> tuple[Any, str]:
    rules = (linjax.size, linjax.threshold, linjax.tolerance)
    rule = next(
        make(value) for make in rules if (value := getattr(options, make.__name__)) is not None
    )
    if options.batch < 1:
        raise LinjaxError(f"--batch {options.batch}: expected at least 1")
    net, params = linjax.load(options.path, _function(options.apply))
    inputs = _rows(options.data)
    rows = len(inputs[0])
    starts = range(0, rows, options.batch)
    batches = [tuple(x[i : i + options.batch] for x in inputs) for i in starts]
    folded, report = linjax.fold(params, linjax.collect(net, params, batches), rule, details=True)
    linjax.save(options.to, net, folded, report=report)
    found = {
        "file": options.to,
        "bytes": Path(options.to).stat().st_size,
        "before": report.before,
        "after": report.after,
        "predicted": report.predicted,
    }
    return found, f"{report!r}\n{options.to}: {found['bytes']:,} bytes"


def _function(name: str) -> Callable[..., Any]:
    """Imports ``module:function``, from the working folder, too."""
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise LinjaxError(f"--apply {name}: {error}; expected MODULE:FUNCTION") from error


def _rows(path: str) -> tuple[np.ndarray, ...]:
    """The network's inputs: one array, or those of an archive in its order."""
    try:
        found = np.load(path, allow_pickle=False)
        arrays = tuple(found.values()) if hasattr(found, "files") else (found,)
    except (ValueError, EOFError) as error:
        raise LinjaxError(f"{path}: not an .npy or .npz file of numbers: {error}") from error
    if not arrays or len({x.shape[:1] for x in arrays}) != 1 or not arrays[0].ndim:
        raise LinjaxError(f"{path}: expected arrays with as many rows each")
    return arrays


if __name__ == "__main__":
    sys.exit(main())
