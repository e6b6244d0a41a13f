"""The commands: each takes the parsed options and returns a JSON value and a text."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import linjax
from linjax.chains.table import describe as describe_chains
from linjax.cli import inputs
from linjax.errors import LinjaxError
from linjax.evidence.bounds import Verdict
from linjax.fold.compare import Comparison, compare_functions
from linjax.fold.report import Report
from linjax.program.pytree import is_floating, join
from linjax.report import table
from linjax.store import codec, files
from linjax.store.check import contents
from linjax.store.export import batch_of, restrict
from linjax.store.manifest import Manifest

Found = tuple[Any, str]


def inspect(options: argparse.Namespace) -> Found:
    """Shows what a file says, and scores units if there is data."""
    path = files.place(options.path)
    with files.opened(path) as (file, size):
        manifest = contents(file, size).manifest
    found, text = {"bytes": size, **codec.encode(manifest)}, _summary(manifest, size)
    if options.data is None:
        return found, text
    net, params = _with_function(options, "--data")
    stats = linjax.collect(
        net, params, inputs.batches(options.data, options.batch),
        metric=options.metric, progress=_progress(options),
    )  # fmt: skip
    scores = linjax.score(params, stats)
    found["scores"] = {
        name: {field: values.tolist() for field, values in units._asdict().items()}
        for name, units in scores.sites.items()
    }
    return found, f"{text}\nscores of the units:\n{scores!r}"


def _summary(manifest: Manifest, size: int) -> str:
    now = manifest.provenance
    lines = [
        describe_chains(manifest.graph),
        f"stored: {now.after:,} of {now.before:,} parameters "
        f"({now.after / max(now.before, 1):.2%}), {size:,} bytes",
    ]
    if now.rule:
        lines.append(f"folded by {now.rule} on {now.evidence}")
    if now.predicted is not None:
        lines.append(f"predicted relative output error {now.predicted:.3g}")
    if now.measured is not None:
        same = now.measured.agreement
        also = "" if same is None else f", the original's class in {same:.2%}"
        lines.append(f"measured {now.measured.error:.3g} on {now.measured.rows:,} samples{also}")
    if now.note:
        lines.append(f"note: {now.note}")
    if manifest.program.present:
        batch = manifest.program.batch
        free = "any batch size" if batch is None else f"a batch of {batch} only"
        lines.append(f"program for {', '.join(manifest.program.platforms)}, {free}")
    else:
        lines.append(f"no program: {manifest.program.reason}")
    rows = [(join(leaf.path), leaf.dtype, leaf.shape) for leaf in manifest.leaves]
    lines.append(table.grid(("parameter", "dtype", "shape"), rows))
    return "\n".join(lines)


def fold(options: argparse.Namespace) -> Found:
    """Folds on calibration data, measures, saves."""
    rules = (linjax.size, linjax.threshold, linjax.tolerance)
    rule: Any = next(
        make(value) for make in rules if (value := getattr(options, make.__name__)) is not None
    )
    if options.refit and options.threshold is not None:
        raise LinjaxError("--refit: goes with --size or --tolerance, not with --threshold")
    net, params = _with_function(options, "fold")
    data, show = inputs.batches(options.data, options.batch), _progress(options)
    report: Report | None = None
    if options.refit:
        small = linjax.compress(net, params, data, rule, metric=options.metric, progress=show)
    else:
        stats = linjax.collect(net, params, data, metric=options.metric, progress=show)
        small, report = linjax.fold_and_report(params, stats, rule)
    measured = linjax.compare(net, params, small, data, metric=options.metric, progress=show)
    note = f"compress by {rule}" if options.refit else ""
    linjax.save(options.to, net, small, report=report, measured=measured, note=note)
    found = _saved(options, measured) | {"predicted": None if report is None else report.predicted}
    text = f"{measured!r}\n{_sizes(found)}"
    return found, text if report is None else f"{report!r}\n{text}"


def _saved(options: argparse.Namespace, measured: Comparison) -> dict[str, Any]:
    return {
        "file": options.to,
        "bytes": Path(options.to).stat().st_size,
        "bytes_before": Path(options.path).stat().st_size,
        **measured._asdict(),
    }


def _sizes(found: dict[str, Any]) -> str:
    share = found["bytes"] / found["bytes_before"]
    return f"{found['file']}: {found['bytes']:,} bytes, {share:.2%} of the original's"


def certify(options: argparse.Namespace) -> Found:
    """Proves units on or off on a box; folds them away if asked."""
    lower, upper = (inputs.side(name, getattr(options, name)) for name in ("lower", "upper"))
    if options.to is not None and options.apply is None:
        raise LinjaxError("--to: saving needs the network's function; add --apply MODULE:FUNCTION")
    function = None if options.apply is None else inputs.function(options.apply)
    net, params = linjax.load(options.path, function)
    show = _progress(options)
    told = (lambda line: print(line, file=sys.stderr)) if show else None
    bounds = linjax.certify(net, params, lower, upper, time_limit=options.time_limit, progress=told)
    found: dict[str, Any] = {
        "sites": {
            site.name: {v.name.lower(): int(np.sum(b.verdict == v)) for v in Verdict}
            for site, b in zip(bounds.graph.sites, bounds.sites, strict=True)
        }
    }
    text = repr(bounds)
    if options.check:
        checked = linjax.check_certificate(net, params, bounds)
        if not checked.ok:
            raise LinjaxError(f"the certificate doesn't hold: {checked!r}; please report this")
        found["checked"], text = True, f"{text}\n{checked!r}"
    if options.to is not None:
        small, report = linjax.fold_and_report(params, bounds)
        linjax.save(options.to, net, small, report=report)
        found |= {"file": options.to, "before": report.before, "after": report.after}
        text = f"{text}\n{report!r}\n{options.to}: {Path(options.to).stat().st_size:,} bytes"
    return found, text


def report(options: argparse.Namespace) -> Found:
    """Compares two saved networks by their programs."""
    nets = [linjax.load(path) for path in (options.path, options.small)]
    data = inputs.batches(options.data, options.batch)
    functions = [jax.jit(lambda x, n=net, p=params: n.apply(p, *x)) for net, params in nets]
    counts = linjax.count(nets[0][1]), linjax.count(nets[1][1])
    measured = compare_functions(
        functions[0], functions[1], counts, data,
        metric=options.metric, progress=_progress(options),
    )  # fmt: skip
    sizes = [Path(path).stat().st_size for path in (options.path, options.small)]
    found = {"file": options.small, "bytes": sizes[1], "bytes_before": sizes[0]}
    text = f"{measured!r}\n{_sizes(found)}"
    found |= measured._asdict()
    if options.labels is not None:
        right = [_accuracy(function, data, options.labels) for function in functions]
        found |= {"accuracy_before": right[0], "accuracy": right[1]}
        text += f"\naccuracy {right[0]:.4f} → {right[1]:.4f}"
    return found, text


def _accuracy(function: Any, data: list[Any], path: str) -> float:
    (labels,) = inputs.rows(path)[:1]
    guesses = [np.argmax(jax.tree.leaves(function(batch))[0], axis=-1) for batch in data]
    classes = np.concatenate(guesses)
    if classes.shape != labels.shape:
        raise LinjaxError(f"--labels {path}: shape {labels.shape}, expected {classes.shape}")
    return float(np.mean(classes == labels))


def export(options: argparse.Namespace) -> Found:
    """Writes a program for other runtimes."""
    path = files.place(options.to)
    if os.path.lexists(path):
        raise LinjaxError(f"{path}: exists; give another path or remove it")
    found: dict[str, Any] = {"file": str(path), "format": options.format}
    if options.format == "onnx":
        code = linjax.to_onnx(*_with_function(options, "--format onnx"))
        where = "checked by onnxruntime"
    else:
        net, _ = linjax.load(options.path)
        code = restrict(net.exported, tuple(options.platforms.split(",")))
        found["platforms"], where = options.platforms.split(","), f"for {options.platforms}"
    files.replace(path, lambda file: file.write(code))
    return found | {"bytes": len(code)}, f"{path}: {len(code):,} bytes of {options.format}, {where}"


def bench(options: argparse.Namespace) -> Found:
    """Times programs on random inputs: median and best of some runs."""
    for name in ("batch", "repeat"):
        if getattr(options, name) < 1:
            raise LinjaxError(f"--{name} {getattr(options, name)}: expected at least 1")
    found = [_timed(path, options) for path in (options.path, *options.others)]
    first = found[0]["median_ms"]
    rows = [
        (r["file"], f"{r['parameters']:,}", f"{r['bytes']:,}", r["batch"], f"{r['median_ms']:.3f}",
         f"{r['best_ms']:.3f}", f"{r['rows_per_second']:,.0f}", f"{first / r['median_ms']:.2f}")
        for r in found
    ]  # fmt: skip
    head = ("file", "parameters", "bytes", "batch", "median ms", "best ms", "rows/s", "speed-up")
    device = jax.devices()[0]
    return {"device": device.device_kind, "runs": found}, (
        f"{table.grid(head, rows)}\n{options.repeat} runs on {device.device_kind}"
    )


def _timed(path: str, options: argparse.Namespace) -> dict[str, Any]:
    net, params = linjax.load(path)
    batch = net.manifest.program.batch or options.batch
    traced, rng = batch_of(net), np.random.default_rng(0)

    def draw(spec: Any) -> Any:
        along = spec.shape and spec.shape[0] == traced
        shape = (batch, *spec.shape[1:]) if along else spec.shape
        if is_floating(str(spec.dtype)):
            return jnp.asarray(rng.normal(size=shape), spec.dtype)
        return jnp.zeros(shape, spec.dtype)

    x = jax.tree.map(draw, net.example)
    run = jax.jit(net.apply)
    jax.block_until_ready(run(params, *x))
    times = []
    for _ in range(options.repeat):
        start = time.perf_counter()
        jax.block_until_ready(run(params, *x))
        times.append(1e3 * (time.perf_counter() - start))
    median = float(np.median(times))
    return {
        "file": path,
        "parameters": linjax.count(params),
        "bytes": Path(path).stat().st_size,
        "batch": batch,
        "median_ms": median,
        "best_ms": min(times),
        "rows_per_second": 1e3 * batch / median,
    }


def _with_function(options: argparse.Namespace, what: str) -> tuple[Any, Any]:
    """Loads the network to be traced anew."""
    if options.apply is None:
        raise LinjaxError(f"{what}: needs the network's function; add --apply MODULE:FUNCTION")
    return linjax.load(options.path, inputs.function(options.apply))


def _progress(options: argparse.Namespace) -> bool:
    return not options.quiet and sys.stderr.isatty()
