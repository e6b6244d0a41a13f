"""Random architectures with planted units: blocks of several kinds, wired at random."""

from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

WIDTHS = (2, 4, 6)
WRAPS: tuple[Callable[[Any], Any], ...] = (lambda f: f, jax.jit, jax.checkpoint)
KINDS = (
    "dense", "deep", "residual", "normed", "gated", "concat", "heads", "shared", "peek",
    "branches", "tree", "glu", "sum", "skip", "meet",
)  # fmt: skip


class Plant(NamedTuple):
    """Units planted in one layer, by what they do on all inputs.

    Attributes:
      layer: the layer's key.
      on: mask of the units whose pre-activation is positive everywhere.
      off: mask of those where it is negative everywhere.
      twin: (unit, twice that unit), None without.
    """

    layer: str
    on: np.ndarray
    off: np.ndarray
    twin: tuple[int, int] | None


class Planted(NamedTuple):
    """A network as a bare function, its parameters, its inputs, and what was planted."""

    apply_fn: Callable[..., Any]
    params: dict[str, Any]
    x: np.ndarray
    plants: list[Plant]
    kinds: list[str]


class _Builder:
    """Draws layers while it runs the network on its inputs, in NumPy."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.params: dict[str, Any] = {}
        self.plants: list[Plant] = []

    def width(self) -> int:
        return int(self.rng.choice(WIDTHS))

    def layer(self, p: int, q: int, bias: bool = True) -> str:
        name = f"m{len(self.params)}_{int(self.rng.integers(1000))}"
        self.params[name] = {"w": self.rng.normal(size=(p, q)) / np.sqrt(p)}
        if bias:
            self.params[name]["b"] = 0.3 * self.rng.normal(size=q)
        return name

    def planted(
        self, v: np.ndarray, q: int, beside: np.ndarray | None = None, other: str = ""
    ) -> str:
        """A layer some of whose units are always on, always off, or doubles.

        With ``other``, a layer that reads ``beside``, the units are those of the layers' sum.
        """
        name = self.layer(v.shape[1], q)
        kernel, bias = self.params[name]["w"], self.params[name]["b"]
        kernels = [kernel, self.params[other]["w"]] if other else [kernel]
        reads = v if beside is None else np.concatenate([v, beside], 1)
        fate = self.rng.integers(0, 3, q)
        reach = np.abs(reads).max(0) @ np.abs(np.concatenate(kernels)) + 0.1
        bias[:] = np.where(fate == 0, reach, np.where(fate == 1, -reach, bias))
        twin = None
        if q > 1 and self.rng.random() < 0.5:
            for own in kernels:
                own[:, 1] = 2.0 * own[:, 0]
            bias[1], twin = 2.0 * bias[0], (0, 1)
        z = reads @ np.concatenate(kernels) + bias
        self.plants.append(Plant(name, (z > 0).all(0), (z < 0).all(0), twin))
        return name


def _dense(part: dict[str, Any], v: Any) -> Any:
    z = v @ part["w"]
    return z + part["b"] if "b" in part else z


def _normed(v: Any) -> Any:
    centred = v - v.mean(-1, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)


def _stage(build: _Builder, kind: str, v: np.ndarray) -> Callable[[Any, Any], Any]:
    """Draws one stage of a kind: a function of the parameters and of the stream."""
    d, act = v.shape[1], jax.nn.relu
    relu = lambda z: np.maximum(z, 0)  # noqa: E731
    if kind in ("dense", "residual", "normed", "shared", "peek"):
        inside = np.asarray(_normed(v)) if kind == "normed" else v
        up = build.planted(inside, build.width())
        m = build.params[up]["w"].shape[1]
        down = build.layer(m, d if kind != "dense" else build.width())

        def block(params: Any, x: Any) -> Any:
            u = _normed(x) if kind == "normed" else x
            return _dense(params[down], act(_dense(params[up], u)))

        if kind == "dense":
            return block
        if kind == "shared":  # the same layers, twice
            return lambda params, x: block(params, block(params, x))
        if kind == "peek":  # the activation is read by something else, too
            return lambda params, x: (
                x + _dense(params[down], h := act(_dense(params[up], x))) * h.sum(-1, keepdims=True)
            )
        return lambda params, x: x + block(params, x)
    if kind == "deep":
        first = build.planted(v, build.width())
        h = relu(_dense(build.params[first], v))
        second = build.planted(h, build.width())
        last = build.layer(build.params[second]["w"].shape[1], build.width())
        return lambda params, x: _dense(
            params[last], act(_dense(params[second], act(_dense(params[first], x))))
        )
    if kind == "gated":
        m = build.width()
        gate, up = build.layer(d, m), build.layer(d, m, bias=False)
        if m > 1:
            for name in (gate, up):
                build.params[name]["w"][:, 1] = build.params[name]["w"][:, 0]
            build.params[gate]["b"][1] = build.params[gate]["b"][0]
        down = build.layer(m, d)
        return lambda params, x: (
            x + _dense(params[down], jax.nn.silu(_dense(params[gate], x)) * _dense(params[up], x))
        )
    if kind == "concat":
        one, two = build.planted(v, build.width()), build.planted(v, build.width())
        m = sum(build.params[name]["w"].shape[1] for name in (one, two))
        down = build.layer(m, build.width())
        return lambda params, x: _dense(
            params[down],
            jnp.concatenate([act(_dense(params[one], x)), act(_dense(params[two], x))], -1),
        )
    if kind == "skip":  # what went in comes back beside the units
        one = build.planted(v, build.width())
        h = relu(_dense(build.params[one], v))
        joint = [h, v] if build.rng.random() < 0.5 else [v, h]
        two = build.planted(np.concatenate(joint, -1), build.width())
        down = build.layer(build.params[two]["w"].shape[1], build.width())
        ahead = joint[0] is h

        def skip(params: Any, x: Any) -> Any:
            h = act(_dense(params[one], x))
            u = jnp.concatenate([h, x] if ahead else [x, h], -1)
            return _dense(params[down], act(_dense(params[two], u)))

        return skip
    if kind == "meet":  # layers of different features, added in front of their activation
        one, q = build.planted(v, build.width()), build.width()
        h = relu(_dense(build.params[one], v))
        other = build.layer(d, q, bias=False)
        two, down = build.planted(h, q, v, other), build.layer(q, build.width())
        return lambda params, x: _dense(
            params[down],
            act(_dense(params[two], act(_dense(params[one], x))) + _dense(params[other], x)),
        )
    if kind in ("branches", "tree"):
        return _branches(build, v, 2 if kind == "tree" else 1)
    if kind == "glu":  # one kernel for gate and values
        m = build.width()
        both, down = build.layer(d, 2 * m, bias=bool(build.rng.integers(2))), build.layer(m, d)
        fused = _fused(both, down, int(build.rng.integers(len(HALVES))))
        return lambda params, x: x + fused(params, x)
    if kind == "sum":  # branches of the same features that meet
        m = build.width()
        one, two, down = build.layer(d, m), build.layer(d, m), build.layer(m, build.width())
        return lambda params, x: _dense(
            params[down], act(_dense(params[one], x)) + act(_dense(params[two], x))
        )
    up = build.planted(v, build.width())  # heads: read by two layers
    m = build.params[up]["w"].shape[1]
    left, right = build.layer(m, d), build.layer(m, 3)

    def heads(params: Any, x: Any) -> Any:
        h = act(_dense(params[up], x))
        return jnp.concatenate([x + _dense(params[left], h), _dense(params[right], h)], -1)

    return heads


def _branches(build: _Builder, v: np.ndarray, levels: int) -> Callable[[Any, Any], Any]:
    """A trunk whose activation several layers read, most of which have units themselves."""
    trunk = build.planted(v, build.width())
    h = np.maximum(_dense(build.params[trunk], v), 0)
    m = h.shape[1]
    heads: list[Callable[[Any, Any], Any]] = []
    for _ in range(2):
        kind = str(build.rng.choice(("one", "two", "gated", "fused", "plain")))
        if levels > 1:
            heads.append(_branches(build, h, levels - 1))
        elif kind == "plain":
            heads.append(_affine(build.layer(m, 2)))
        elif kind == "gated":
            n = build.width()
            heads.append(_glu(build.layer(m, n), build.layer(m, n, bias=False), build.layer(n, 2)))
        elif kind == "fused":
            n = build.width()
            heads.append(_fused(build.layer(m, 2 * n), build.layer(n, 2), 0))
        else:
            names, u = [], h
            for _ in range(2 if kind == "two" else 1):
                names.append(build.planted(u, build.width()))
                u = np.maximum(_dense(build.params[names[-1]], u), 0)
            heads.append(_mlp(names, build.layer(u.shape[1], 2)))
    inner = build.planted(h, build.width())
    heads.append(_mlp([inner], build.layer(build.params[inner]["w"].shape[1], 1)))

    def stage(params: Any, x: Any) -> Any:
        h = jax.nn.relu(_dense(params[trunk], x))
        return jnp.concatenate([head(params, h) for head in heads], -1)

    return stage


def _affine(name: str) -> Callable[[Any, Any], Any]:
    return lambda params, x: _dense(params[name], x)


def _glu(gate: str, up: str, down: str) -> Callable[[Any, Any], Any]:
    return lambda params, x: _dense(
        params[down], jax.nn.silu(_dense(params[gate], x)) * _dense(params[up], x)
    )


HALVES: tuple[Callable[[Any], Any], ...] = (
    lambda z: jnp.split(z, 2, -1),
    lambda z: (z[..., z.shape[-1] // 2 :], z[..., : z.shape[-1] // 2]),
    lambda z: ((pair := z.reshape(*z.shape[:-1], 2, -1))[..., 0, :], pair[..., 1, :]),
)


def _fused(both: str, down: str, form: int) -> Callable[[Any, Any], Any]:
    """A gated layer with one kernel for gate and values."""

    def run(params: Any, x: Any) -> Any:
        gate, values = HALVES[form](_dense(params[both], x))
        return _dense(params[down], jax.nn.silu(gate) * values)

    return run


def _mlp(names: list[str], last: str) -> Callable[[Any, Any], Any]:
    def run(params: Any, x: Any) -> Any:
        for name in names:
            x = jax.nn.relu(_dense(params[name], x))
        return _dense(params[last], x)

    return run


@st.composite
def architectures(draw: Any, most: int = 4) -> Planted:
    """Draws a network of 1 to ``most`` stages."""
    seed = draw(st.integers(0, 2**31))
    kinds = [draw(st.sampled_from(KINDS)) for _ in range(draw(st.integers(1, most)))]
    return make(seed, kinds)


def make(seed: int, kinds: list[str]) -> Planted:
    """Makes the network of a seed from stages of these kinds."""
    build = _Builder(seed)
    x = build.rng.uniform(-1, 1, (400, build.width()))
    stages, v = [], x
    for kind in kinds:
        stage = WRAPS[int(build.rng.integers(len(WRAPS)))](_stage(build, kind, v))
        stages.append(stage)
        v = np.asarray(jax.jit(stage)(build.params, v))
    head = build.layer(v.shape[1], 2)

    def apply_fn(params: Any, x: Any) -> Any:
        for stage in stages:
            x = stage(params, x)
        return _dense(params[head], x)

    return Planted(apply_fn, build.params, x, build.plants, kinds)
