"""Several products that sum over one dimension, heads on both axes of kernels, complex kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import linjax
from linjax.dims.sites import Form
from linjax.dims.span import Cut, Span, exposed
from tests.arrays import normal, placed

WIDTH, HEADS, FEATURES, LENGTH, RANK = 8, 2, 4, 6, 2
X = normal(0, 48, LENGTH, WIDTH) * 3


def softmax(q, k, v):
    """Attention of ``(rows, positions, heads, features)``."""
    scores = jax.nn.softmax(jnp.einsum("blhd,bmhd->bhlm", q, k), axis=-1)
    return jnp.einsum("bhlm,bmhd->blhd", scores, v)


def parted(y):
    return y.reshape(*y.shape[:2], HEADS, -1)


def stacked(p, x):
    """The keys of two layers pass through one array, as through a cache."""
    cache = jnp.zeros((2, *x.shape[:2], HEADS, p["k0"].shape[-1] // HEADS))
    for n in "01":
        cache = cache.at[int(n)].set(parted(x @ p["k" + n]))
        made = softmax(parted(x @ p["q" + n]), cache[int(n)], parted(x @ p["v" + n]))
        x = x + made.reshape(x.shape[0], LENGTH, -1) @ p["o" + n]
    return x @ p["head"]


def turned(p, x):
    """Likewise of queries, and the second layer's product has its operands the other way round."""
    cache = jnp.stack([parted(x @ p["q" + n]) for n in "01"])
    for n in "01":
        q, k, v = cache[int(n)], parted(x @ p["k" + n]), parted(x @ p["v" + n])
        order = ("bmhd,blhd->bhml", (k, q)) if n == "1" else ("blhd,bmhd->bhlm", (q, k))
        scores = jnp.einsum(order[0], *order[1])
        scores = jax.nn.softmax(scores.swapaxes(2, 3) if n == "1" else scores, axis=-1)
        made = jnp.einsum("bhlm,bmhd->blhd", scores, v)
        x = x + made.reshape(x.shape[0], LENGTH, -1) @ p["o" + n]
    return x @ p["head"]


def shared(p, x):
    """One layer, applied twice."""
    for _ in range(2):
        q, k, v = (parted(x @ p[name + "0"]) for name in "qkv")
        x = (x + softmax(q, k, v).reshape(x.shape[0], LENGTH, -1) @ p["o0"]) / 2
    return x @ p["head"]


def several(seed, low):
    """Kernels of two layers; where they are low, all scores have a rank of RANK in one basis."""
    rng = np.random.default_rng(seed)
    p = {f"{name}{n}": rng.normal(size=(WIDTH, WIDTH)) for name in "qkvo" for n in "01"}
    if low:
        basis = rng.normal(size=(HEADS, FEATURES, FEATURES))
        seen = np.arange(FEATURES) < RANK
        for name, turn in (("q", basis), ("k", np.linalg.inv(basis).swapaxes(1, 2))):
            for n in "01":
                own = p[name + n].reshape(WIDTH, HEADS, FEATURES) * (seen if name == "q" else 1)
                p[name + n] = np.einsum("phd,hde->phe", own, turn).reshape(WIDTH, -1)
    p["head"] = rng.normal(size=(WIDTH, 5))
    return {name: placed(x / (6 if name[0] in "kqo" else 2)) for name, x in p.items()}


def paired(net):
    return [site for site in net.network.sites if site.form is Form.PAIRED]


def folded(apply, p, size):
    """A fold of queries and keys alone, its predicted error and that on all rows."""
    net = linjax.trace(apply, p, X[:1])
    known = linjax.frontier(p, linjax.collect(net, p, [X[:32]], metric="identity"))
    names = {net.network.names[kernel.leaf] for kernel in known.problems.kernels}
    names |= {site.name for site in net.network.foldable}
    makers = [maker.leaf for site in paired(net) for maker in site.makers]
    names -= {net.network.names[leaf] for leaf in makers}
    small, report = linjax.fold_and_report(
        p, known, linjax.size(size, least=dict.fromkeys(names, 1.0))
    )
    return small, report.predicted, linjax.compare(net, p, small, [X], metric="identity").error


@pytest.mark.parametrize("apply", [stacked, turned, shared])
def test_one_basis_serves_all_products_that_sum_over_a_dimension(apply):
    p = several(0, low=True)
    if apply is shared:
        p = {name: x for name, x in p.items() if not name.endswith("1")}
    net = linjax.trace(apply, p, X[:1])
    (site,) = paired(net)
    assert len(site.told) == 2 and len(site.points) == 4 and site.opposite
    layers = 1 if apply is shared else 2
    cut = 2 * layers * WIDTH * HEADS * (FEATURES - RANK)
    size = 1 - cut / linjax.count(p)
    small, predicted, error = folded(apply, p, size)
    assert small["q0"].shape == (WIDTH, HEADS * RANK)
    assert predicted < 1e-3 and error < 1e-3


@pytest.mark.parametrize("apply", [stacked, turned, shared])
@pytest.mark.parametrize("seed", [1, 2])
def test_what_all_products_lose_is_predicted(apply, seed):
    p = several(seed, low=False)
    if apply is shared:
        p = {name: x for name, x in p.items() if not name.endswith("1")}
    small, predicted, error = folded(apply, p, 0.93)
    assert small["q0"].shape[1] < WIDTH
    assert error / 2 < predicted < 2 * error + 1e-6


def linear(p, x):
    """Linear attention, whose features are positive: coordinates alone can go."""
    cache = jnp.stack([jax.nn.softplus(parted(x @ p["k" + n])) - 0.1 for n in "01"])
    for n in "01":
        q, k = jax.nn.softplus(parted(x @ p["q" + n])), cache[int(n)]
        made = jnp.einsum("blhd,bmhd,bmhe->blhe", q, k, parted(x @ p["v" + n])) / LENGTH
        x = x + made.reshape(x.shape[0], LENGTH, -1) @ p["o" + n]
    return x @ p["head"]


def test_coordinates_that_one_of_the_products_needs_stay():
    """Of four a head the first product has no use for two, the second none for another two."""
    p = several(3, low=False)
    for n, dead in (("0", [0, 1]), ("1", [2, 3])):
        q = np.array(p["q" + n]).reshape(WIDTH, HEADS, FEATURES)
        q[:, :, dead] *= 1e-3
        p["q" + n] = placed(q.reshape(WIDTH, -1))
    small, predicted, error = folded(linear, p, 0.7)
    assert small["q0"].shape[1] < WIDTH
    assert error / 1.5 < predicted < 1.5 * error


def flat(p, x):
    """Heads are added to the stream as they are: they stand on both axes of kernels."""
    made = softmax(*(parted(x @ p[name]) for name in "qkv"))
    return (x + made.reshape(x.shape)) @ p["head"]


def inside_out(p, x):
    """Features run slower than heads in what kernels make."""
    kernels = [p[name].reshape(WIDTH, HEADS, -1).swapaxes(1, 2).reshape(WIDTH, -1) for name in "qk"]
    q, k = ((x @ kernel).reshape(*x.shape[:2], -1, HEADS).swapaxes(2, 3) for kernel in kernels)
    return (x + softmax(q, k, parted(x @ p["v"])).reshape(x.shape)) @ p["head"]


def apart(p, x):
    """Kernels of four axes."""
    x = parted(x)
    q, k, v = (jnp.einsum("blge,gehd->blhd", x, p[name]) for name in "qkv")
    return (x + softmax(q, k, v)).reshape(*x.shape[:2], -1) @ p["head"]


def on_both_axes(seed):
    """Kernels of low rank by head."""
    rng = np.random.default_rng(seed)
    p = {name: rng.normal(size=(WIDTH, HEADS, FEATURES)) for name in "qkv"}
    turn = rng.normal(size=(HEADS, RANK, FEATURES))
    p["q"] = np.einsum("phr,hrd->phd", p["q"][..., :RANK], turn)
    p = {name: x.reshape(WIDTH, -1) / 3 for name, x in p.items()}
    return {name: placed(x) for name, x in {**p, "head": rng.normal(size=(WIDTH, 5))}.items()}


@pytest.mark.parametrize("apply", [flat, inside_out, apart])
def test_heads_on_both_axes_of_a_kernel(apply):
    p = on_both_axes(0)
    if apply is apart:
        four = (HEADS, FEATURES, HEADS, FEATURES)
        p = {name: x if name == "head" else x.reshape(four) for name, x in p.items()}
    net = linjax.trace(apply, p, X[:1])
    assert any(site.form is Form.PAIRED for site in net.network.foldable)
    size = 1 - 2 * WIDTH * HEADS * (FEATURES - RANK) / linjax.count(p)
    _, predicted, error = folded(apply, p, size)
    assert predicted < 1e-3 and error < 1e-3


@pytest.mark.parametrize("order", ["qd d", "qd dq", "dq qd", "q d q e"])
def test_a_repeat_on_two_axes_is_the_one_beside_the_dimension(order):
    """Against plain indexing: along d of a repeat r there is what stands at that repeat."""
    sizes = {0: 2, 1: 3, 2: 5}  # a repeat, a dimension, another
    r, d, e = (Span(dim, size) for dim, size in sizes.items())

    def product(*parts):
        return Span(-1, int(np.prod([p.size for p in parts])), True, parts)

    cases = {
        "qd d": ((product(r, e), product(r, d)), (2, 5, 2, 3), (2, 3)),
        "qd dq": ((product(r, e), product(d, r)), (2, 5, 3, 2), (3, 2)),
        "dq qd": ((product(d, r), product(r, e)), (3, 2, 2, 5), (1, 0)),
        "q d q e": ((r, d, r, e), (2, 3, 2, 5), (0, 1)),
    }
    spans, whole, (repeat, along) = cases[order]
    values = np.arange(np.prod(whole)).reshape(whole)
    array = values.reshape([span.size for span in spans])
    found = exposed(array, spans, Cut(1, (0,), sizes.__getitem__, lambda x: x))
    rest = [n for n in range(4) if n not in (repeat, along)]
    expected = values.transpose(repeat, *rest, along).reshape(2, -1, 3)
    assert np.array_equal(np.sort(found, axis=1), np.sort(expected, axis=1))


def fourier(p, x):
    """A Fourier layer with a complex kernel."""
    h = jnp.fft.rfft(x @ p["in"], axis=1)
    z = jnp.fft.irfft(jnp.einsum("bfi,fio->bfo", h, p["modes"]), n=LENGTH, axis=1)
    return jax.nn.relu(z + p["bias"]) @ p["out"]


@pytest.mark.parametrize("rule", [0.9, 0.7, 0.5])
def test_linear_units_beside_a_complex_kernel(rule):
    modes = np.array(normal(1, 4, 4, 12)) + 1j * np.array(normal(2, 4, 4, 12))
    p = {
        "in": normal(3, WIDTH, 4) * 3,
        "modes": placed(modes * 3, np.complex64),
        "bias": placed(np.linspace(1, 6, 12)),
        "out": normal(4, 12, 2),
    }
    net = linjax.trace(fourier, p, X[:1])
    stats = linjax.collect(net, p, [X[:32]], metric="identity")
    small, report = linjax.fold_and_report(p, stats, linjax.size(rule))
    error = linjax.compare(net, p, small, [X[32:]], metric="identity").error
    assert error < 2 * report.predicted
    assert "modes_linear" in small and np.abs(np.imag(small["modes_linear"])).max() > 0.01
    again = linjax.fold(small, linjax.collect(net, small, [X[:32]]), linjax.size(0.9))
    assert linjax.count(again) < linjax.count(small)


def test_complex_and_whole_numbers_count_alike_everywhere():
    """A complex number is one parameter; whole numbers that stand for kernels have bytes alone."""
    modes = placed(np.array(normal(1, 4, 4, 12)) * (1 + 1j), np.complex64)
    p = {"in": normal(3, WIDTH, 4), "modes": modes, "bias": normal(5, 12), "out": normal(4, 12, 2)}
    net = linjax.trace(fourier, p, X[:1])
    assert linjax.coverage(net).parameters == linjax.count(p) == sum(x.size for x in p.values())

    def scaled(p, x):
        h = jax.nn.relu(x[:, 0] @ (p["w"].astype(jnp.float32) * p["s"]) + p["b"])
        return h @ p["o"]

    whole = np.random.default_rng(0).integers(-99, 99, (WIDTH, 32))
    p = {"w": placed(whole, np.int8), "s": normal(6, 32) / 30, "b": normal(7, 32),
         "o": normal(8, 32, 2)}  # fmt: skip
    net = linjax.trace(scaled, p, X[:1])
    stats = linjax.collect(net, p, [X], metric="identity")
    small = linjax.fold(p, stats, linjax.size(0.5, of="bytes"))
    held = [sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in (small, p)]
    assert 0.4 < held[0] / held[1] <= 0.5
