"""The ``linjax`` command: look at saved networks, fold, certify, compare, export, time them."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax

import linjax
from linjax.cli import commands
from linjax.errors import FoldWarning, LinjaxError
from linjax.evidence.metric import METRICS
from linjax.store.export import PLATFORMS

EPILOG = (
    "Exit codes: 0 done, 1 refused (one line on stderr says why and what to do), 2 wrong usage, "
    "130 interrupted."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: what follows the command's name; by default those of the process.

    Returns:
      The exit code: 0, or 1 after an error in one line on stderr, or 130 after Ctrl-C. Wrong
      usage exits with 2.

    Example:
      >>> main(["inspect", "nowhere.safetensors"])
      1
    """
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", FoldWarning)
            found, text = options.run(options)
        for warning in (w for w in said if issubclass(w.category, UserWarning)):
            print(f"linjax: warning: {' '.join(str(warning.message).split())}", file=sys.stderr)
        print(json.dumps(found, indent=2) if options.json else text, flush=True)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (LinjaxError, OSError, MemoryError, jax.errors.JaxRuntimeError) as error:
        print(f"linjax: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("linjax: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="linjax",
        description="Smaller networks without retraining.",
        epilog=f"'linjax COMMAND --help' tells what a command takes. {EPILOG}",
    )
    parser.add_argument("--version", action="version", version=f"linjax {linjax.__version__}")
    everything = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[..., Any], text: str, path: str = "PATH") -> argparse.ArgumentParser:
        sub = everything.add_parser(run.__name__, help=text, description=text, epilog=EPILOG)
        sub.add_argument("path", metavar=path, help="a file that linjax.save wrote")
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        sub.add_argument("--quiet", "-q", action="store_true", help="show no progress")
        sub.set_defaults(run=run)
        return sub

    sub = command(
        commands.inspect, "Show a saved network: sites, refusals, sizes; scores of units."
    )
    _data(sub, "inputs to score the units on; needs --apply", required=False)
    _apply(sub, required=False)

    sub = command(commands.fold, "Fold a saved network on calibration data.")
    _data(sub, "inputs, without labels")
    _apply(sub)
    _to(sub, "where to save the result", required=True)
    rule = sub.add_mutually_exclusive_group(required=True)
    for name, text in (
        ("size", "share of the parameters to reach, as 0.1"),
        ("threshold", "activation rate from which units fold, as 0.95"),
        ("tolerance", "largest relative output error, as 0.01"),
    ):
        rule.add_argument(f"--{name}", type=float, metavar="X", help=text)
    sub.add_argument(
        "--refit", action="store_true",
        help="refit layer by layer by linjax.compress: slower, better; --size or --tolerance",
    )  # fmt: skip

    sub = command(commands.certify, "Prove for a box of inputs which units are always on or off.")
    for side in ("lower", "upper"):
        sub.add_argument(
            f"--{side}", required=True, metavar="X", help=f"the box's {side} side: number or .npy"
        )
    sub.add_argument(
        "--time-limit", type=float, default=600.0, metavar="S",
        help="seconds after which units stay undecided (default: %(default)g)",
    )  # fmt: skip
    sub.add_argument("--check", action="store_true", help="verify the certificate independently")
    _apply(sub, required=False)
    _to(sub, "where to save the network without those units; needs --apply")

    sub = command(commands.report, "Compare a folded network with its original.", "ORIGINAL")
    sub.add_argument("small", metavar="SMALL", help="the folded network's file")
    _data(sub, "inputs, better others than the fold saw")
    sub.add_argument("--labels", metavar="FILE", help="classes of the inputs, .npy: adds accuracy")

    sub = command(commands.export, "Write a saved network as a program for other runtimes.")
    _to(sub, "where to write it", required=True)
    sub.add_argument(
        "--format", choices=("stablehlo", "onnx"), default="stablehlo",
        help="what to write (default: %(default)s); onnx needs --apply and the extra 'export'",
    )  # fmt: skip
    sub.add_argument(
        "--platforms", default=",".join(PLATFORMS), metavar="NAMES",
        help="where StableHLO is to run, separated by commas (default: %(default)s)",
    )  # fmt: skip
    _apply(sub, required=False)

    sub = command(commands.bench, "Time saved networks side by side on this machine.")
    sub.add_argument("others", nargs="*", metavar="PATH", help="more of them")
    sub.add_argument("--batch", type=int, default=256, metavar="N", help="rows (default: 256)")
    sub.add_argument("--repeat", type=int, default=30, metavar="N", help="runs (default: 30)")
    return parser


def _data(sub: argparse.ArgumentParser, text: str, required: bool = True) -> None:
    sub.add_argument("--data", required=required, metavar="FILE", help=f"{text}: .npy or .npz")
    sub.add_argument("--batch", type=int, default=1024, metavar="N", help="rows (default: 1024)")
    sub.add_argument("--metric", choices=METRICS,
                     help="softmax if outputs are logits, else identity "
                     "(default: as their shapes suggest)")  # fmt: skip


def _apply(sub: argparse.ArgumentParser, required: bool = True) -> None:
    sub.add_argument(
        "--apply", required=required, metavar="MODULE:FUNCTION",
        help="the network's function(params, *inputs); a stored program can't be traced",
    )  # fmt: skip


def _to(sub: argparse.ArgumentParser, text: str, required: bool = False) -> None:
    sub.add_argument("--to", required=required, metavar="FILE", help=text)
