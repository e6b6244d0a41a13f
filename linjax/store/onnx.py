"""A network as an ONNX file: one that other runtimes read, checked before it is handed out."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from linjax.errors import LinjaxError, warn
from linjax.net import Net
from linjax.program import pytree
from linjax.program.compat import jaxpr_as_fun
from linjax.program.traced import as_traced
from linjax.store.export import batch_of, freest
from linjax.store.shown import made_up

BATCHES = (1, 3, 16)  # sizes that a program with a free batch is checked at
ROUNDING = 1e-4  # largest difference, relative to the largest output; float32 and wider
COARSE = 2e-2  # the same for bfloat16 and float16
REPLACED = (
    "jax", "jax.image", "jax.lax", "jax.nn", "jax.numpy", "jax.numpy.fft", "jax.numpy.linalg",
    "jax.random", "jax.scipy.special", "flax.linen", "flax.nnx", "equinox", "equinox.nn",
)  # fmt: skip
"""Modules whose functions the converter replaces, some of them for good."""


def to_onnx(net: Net, params: Any, *, opset: int | None = None) -> bytes:
    """Exports ``net.apply`` with these parameters inside as ONNX, by jax2onnx.

    The batch size stays free where the network allows it; a warning says where not. Inputs are
    named ``x0``, ``x1``, … and outputs ``y0``, ``y1``, … in the order of their leaves. Before it
    is returned the program is run by onnxruntime on random inputs of several batch sizes and
    compared with ``net.apply``.

    Args:
      net: the network, of :func:`trace`; a stored program can't be converted.
      params: its original parameters or folded ones.
      opset: version of ONNX's operators; by default that of jax2onnx.

    Returns:
      The bytes of an ``.onnx`` file.

    Raises:
      LinjaxError: if the extra ``export`` isn't installed, if jax2onnx or onnxruntime can't
        handle the network, with their reason, or if the outputs differ.
      StructureError: if params isn't that of this network.

    Example:
      >>> import jax, jax.numpy as jnp, linjax
      >>> params = {"in": jnp.ones((2, 5)), "out": jnp.ones((5, 3))}
      >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
      >>> net = linjax.trace(apply, params, jnp.ones((1, 2)))
      >>> code = linjax.to_onnx(net, params)                              # doctest: +SKIP
    """
    if not isinstance(net, Net):
        raise LinjaxError(
            f"expected a network of linjax.trace, got {type(net).__name__}; "
            "load it with its function: linjax.load(path, apply_fn)"
        )
    net.check(params)
    with _quiet(), _given_back():
        code, batch, why = freest(net, lambda inputs: _converted(net, params, inputs, opset))
        _check(net, params, code, BATCHES if batch is None else (batch,))
    if batch is not None:
        warn(f"the ONNX program takes only batches of {batch}: {why}", UserWarning)
    return code


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the converter from logging about plugins for libraries that aren't there."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _given_back() -> Iterator[None]:
    """Gives modules their own functions back: others than these don't take all arguments."""
    loaded = [sys.modules[name] for name in REPLACED if name in sys.modules]
    before = [(module, dict(vars(module))) for module in loaded]
    try:
        yield
    finally:
        for module, own in before:
            for name, value in own.items():
                if vars(module).get(name) is not value:
                    setattr(module, name, value)


def _converted(net: Net, params: Any, inputs: Any, opset: int | None) -> bytes:
    """Converts a jaxpr: the converter replaces functions of JAX and Flax while it traces."""
    try:
        import jax2onnx
    except ImportError as error:
        raise LinjaxError(f"{error}; install it: pip install 'linjax[export]'") from error
    specs = jax.tree.leaves(inputs)
    structure = jax.tree.structure(inputs)

    def run(*leaves: Any) -> list[Any]:
        return jax.tree.leaves(net.apply(params, *jax.tree.unflatten(structure, leaves)))

    with as_traced():
        traced = jaxpr_as_fun(jax.make_jaxpr(run)(*specs))
    dtypes = {leaf.dtype for leaf in pytree.leaves_of(params)} | {str(s.dtype) for s in specs}
    model = jax2onnx.to_onnx(
        lambda *leaves: tuple(traced(*leaves)),
        specs,
        model_name="linjax",
        enable_double_precision="float64" in dtypes,
        input_names=[f"x{i}" for i in range(len(specs))],
        output_names=[f"y{i}" for i in range(len(jax.eval_shape(run, *specs)))],
        **({} if opset is None else {"opset": opset}),
    )
    return bytes(model.SerializeToString())


def _check(net: Net, params: Any, code: bytes, batches: tuple[int | None, ...]) -> None:
    """Runs a program and the network on the same inputs."""
    run = _session(code)
    traced = batch_of(net)
    for batch in batches:

        def shaped(spec: Any, batch: int | None = batch) -> Any:
            along = spec.shape and spec.shape[0] == traced
            shape = (batch, *spec.shape[1:]) if along else spec.shape
            return made_up(spec, shape)

        inputs = jax.tree.map(shaped, net.example)
        want = jax.tree.leaves(net.apply(params, *inputs))
        found = run([np.asarray(x) for x in jax.tree.leaves(inputs)])
        for index, (a, b) in enumerate(zip(want, found, strict=True)):
            _compare(f"output y{index} of {batch} rows", a, b)


def _session(code: bytes) -> Callable[[list[Any]], list[Any]]:
    try:
        import onnxruntime
    except ImportError as error:
        raise LinjaxError(f"{error}; install it: pip install 'linjax[export]'") from error
    try:
        session = onnxruntime.InferenceSession(code, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has exceptions of its own
        raise LinjaxError(f"onnxruntime can't load the program: {error!s:.300}") from error
    names = [x.name for x in session.get_inputs()]

    def run(leaves: list[Any]) -> list[Any]:
        return list(session.run(None, dict(zip(names, leaves, strict=True))))

    return run


def _compare(what: str, want: Any, found: Any) -> None:
    limit = COARSE if str(want.dtype) in ("bfloat16", "float16") else ROUNDING
    want, found = np.asarray(want, np.float64), np.asarray(found, np.float64)
    if want.shape != found.shape:
        raise LinjaxError(f"{what}: ONNX gives shape {found.shape}, JAX {want.shape}")
    scale = max(float(np.max(np.abs(want), initial=0.0)), 1e-6)
    apart = float(np.max(np.abs(want - found), initial=0.0)) / scale
    if not apart <= limit:
        raise LinjaxError(f"{what}: ONNX and JAX differ by {apart:.2g} of the largest output")
