"""Draws the figures of the documentation: ``python docs/figures.py``; they are kept as SVG."""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, Rectangle

FOLDER = Path(__file__).parent / "figures"
INK, LINE, SOFT = "#37474f", "#d84315", "#90a4ae"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "linjax",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": INK,
    "ytick.color": INK,
}


def save(figure: plt.Figure, name: str) -> None:
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, transparent=True)
    plt.close(figure)


def lines() -> None:
    """Activations on the pre-activations that they see, and their least-squares lines."""
    rng = np.random.default_rng(0)
    cases = [
        ("always on", jax.nn.relu, rng.normal(2.2, 0.6, 4000)),
        ("almost always on", jax.nn.relu, rng.normal(0.9, 0.8, 4000)),
        ("GELU, narrow", jax.nn.gelu, rng.normal(0.6, 0.35, 4000)),
        ("neither", jax.nn.relu, rng.normal(-0.1, 1.2, 4000)),
    ]
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.5), sharey=True)
    z = np.linspace(-4, 4.5, 300)
    for axis, (title, sigma, seen) in zip(axes, cases, strict=True):
        h = np.asarray(sigma(seen))
        slope = np.cov(h, seen)[0, 1] / np.var(seen, ddof=1)
        r2 = np.corrcoef(h, seen)[0, 1] ** 2
        axis.hist(seen, 40, density=True, color=SOFT, alpha=0.5)
        axis.plot(z, np.asarray(sigma(z)), color=INK)
        axis.plot(z, slope * (z - seen.mean()) + h.mean(), color=LINE, linestyle="--")
        axis.set_title(f"{title}\n$R^2$ = {r2:.2f}", fontsize=10)
        axis.set(xlim=(-4, 4.5), ylim=(-1, 4.2), xlabel="z")
    axes[0].set_ylabel("σ(z)")
    save(figure, "lines")


def box(axis: plt.Axes, x: float, y: float, width: float, height: float, text: str, color: str):
    axis.add_patch(Rectangle((x, y), width, height, facecolor=color, edgecolor=INK, alpha=0.85))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9)


def arrow(axis: plt.Axes, start: tuple[float, float], end: tuple[float, float], bend: float = 0):
    axis.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=10, color=INK,
            connectionstyle=f"arc3,rad={bend}",
        )
    )  # fmt: skip


def layer() -> None:
    """A layer before and after: units kept, linear units, the residual path, the bottleneck."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3))
    for axis in axes:
        axis.set(xlim=(0, 10), ylim=(0, 6))
        axis.axis("off")
    before, after = axes
    before.set_title("before: every unit has its activation", fontsize=10)
    box(before, 0.2, 1, 1.2, 4, "v\n(p)", "#eceff1")
    box(before, 4, 0.5, 1.6, 5, "σ(vW + b)\n(m units)", "#b0bec5")
    box(before, 8.4, 1.5, 1.2, 3, "t\n(q)", "#eceff1")
    arrow(before, (1.4, 3), (4, 3))
    arrow(before, (5.6, 3), (8.4, 3))
    before.text(2.7, 3.3, "W", ha="center")
    before.text(7, 3.3, "W'", ha="center")
    after.set_title("after: k units, r linear units", fontsize=10)
    box(after, 0.2, 1, 1.2, 4, "v\n(p)", "#eceff1")
    box(after, 2.1, 1.8, 0.9, 2.4, "v D\n(s)", "#cfd8dc")
    box(after, 4.2, 3.4, 1.6, 1.9, "σ(·)\n(k units)", "#b0bec5")
    box(after, 4.2, 0.8, 1.6, 1.4, "v U\n(r linear)", "#ffccbc")
    box(after, 8.4, 1.5, 1.2, 3, "t\n(q)", "#eceff1")
    arrow(after, (1.4, 3), (2.1, 3))
    arrow(after, (3.0, 3.2), (4.2, 4.2))
    arrow(after, (3.0, 2.8), (4.2, 1.6))
    arrow(after, (5.8, 4.3), (8.4, 3.3))
    arrow(after, (5.8, 1.5), (8.4, 2.7))
    after.text(7.1, 4.2, "refitted", ha="center", fontsize=9)
    after.text(2.55, 1.3, "bottleneck", ha="center", fontsize=8)
    save(figure, "layer")


def verdicts() -> None:
    """Bounds of pre-activations over a box decide what a unit is."""
    figure, axis = plt.subplots(figsize=(7, 2.2))
    units = [
        ("always on", 0.4, 2.9, "#ffab91"),
        ("always off", -3.1, -0.3, "#b0bec5"),
        ("unstable", -1.4, 1.9, "#ffe082"),
        ("undecided", -0.15, 2.2, "#e0e0e0"),
    ]
    for row, (name, low, high, color) in enumerate(reversed(units)):
        axis.barh(row, high - low, left=low, height=0.55, color=color, edgecolor=INK)
        axis.text(-3.5, row, name, ha="right", va="center")
    axis.plot([-0.9, 1.3], [1, 1], "o", color=INK, markersize=4)
    axis.text(1.55, 1.36, "witnesses", fontsize=8)
    axis.axvline(0, color=LINE)
    axis.set(xlim=(-3.4, 3.4), yticks=[], xlabel="proven bounds of the pre-activation over the box")
    axis.spines["left"].set_visible(False)
    save(figure, "verdicts")


def sizes() -> None:
    """Predicted and measured error against size, of a network on digits."""
    import optax
    from sklearn.datasets import load_digits

    import linjax

    x, y = load_digits(return_X_y=True)
    x, y = jnp.asarray(x / 16.0, jnp.float32), jnp.asarray(y)
    widths, keys = [64, 256, 256, 10], jax.random.split(jax.random.key(0), 3)
    params = [
        {"w": jax.random.normal(k, (a, b)) * np.sqrt(2 / a), "b": jnp.zeros(b)}
        for k, a, b in zip(keys, widths, widths[1:], strict=False)
    ]

    def apply(params, x):
        for one in params[:-1]:
            x = jax.nn.relu(x @ one["w"] + one["b"])
        return x @ params[-1]["w"] + params[-1]["b"]

    adam = optax.adam(1e-3)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()

        updates, state = adam.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = adam.init(params)
    for _ in range(15):
        for i in range(0, 1400, 100):
            params, state = step(params, state, x[i : i + 100], y[i : i + 100])
    net = linjax.trace(apply, params, x[:1])
    stats = linjax.collect(net, params, [x[:1400]])
    known = linjax.frontier(params, stats)
    shares = np.array([0.75, 0.5, 0.35, 0.25, 0.17, 0.1, 0.07, 0.05, 0.035, 0.025, 0.017, 0.01])
    found = [
        linjax.compare(net, params, linjax.fold(params, known, linjax.size(s)), [x[1400:]])
        for s in shares
    ]
    real = [f.after / f.before for f in found]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    left.plot(shares, known.errors(shares), color=SOFT, label="predicted")
    left.plot(real, [f.error for f in found], "o-", color=LINE, label="measured, other rows")
    left.set(xscale="log", yscale="log", xlabel="share of the parameters")
    left.set_title("relative output error", fontsize=10)
    left.legend(frameon=False)
    right.plot(real, [f.agreement for f in found], "o-", color=LINE)
    right.set(xscale="log", xlabel="share of the parameters", ylim=(0.9, 1.005))
    right.set_title("rows with the original's class", fontsize=10)
    for axis in (left, right):
        axis.set_xticks([0.01, 0.1, 1], ["1%", "10%", "100%"])
    save(figure, "sizes")


def imports() -> None:
    """Which package of the library imports which, the lowest at the bottom."""
    from tests.test_layers import ORDER, ROOT, imported, package

    counts: dict[tuple[str, str], int] = {}
    for path in ROOT.rglob("*.py"):
        own = package(path)
        for other in imported(path) - {own} if own in ORDER else ():
            counts[own, other] = counts.get((own, other), 0) + 1
    lines = {
        name: sum(len(p.read_text().splitlines()) for p in ROOT.rglob("*.py") if package(p) == name)
        for name in ORDER
    }
    shown = [name for name in ORDER if name not in ("errors", "report", "penalties")]
    figure, axis = plt.subplots(figsize=(7, 5.2))
    for y, name in enumerate(shown):
        axis.text(-0.25, y, name, ha="right", va="center", fontsize=11, weight="bold")
        axis.text(-2.4, y, f"{lines[name]:,} lines", ha="right", va="center", color=SOFT)
        axis.plot([0], [y], "o", color=INK, markersize=5)
    for (own, other), count in counts.items():
        if own in shown and other in shown:
            top, bottom = shown.index(own), shown.index(other)
            angle = np.linspace(-np.pi / 2, np.pi / 2, 60)
            reach = 0.55 * (top - bottom)
            axis.plot(
                reach * np.cos(angle), (top + bottom) / 2 + (top - bottom) / 2 * np.sin(angle),
                color=LINE if own in ("fold", "evidence") else SOFT,
                linewidth=0.4 + 0.8 * np.log1p(count), alpha=0.75,
            )  # fmt: skip
    axis.set(xlim=(-4.2, 6.5), ylim=(-0.6, len(shown) - 0.4))
    axis.axis("off")
    save(figure, "imports")


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    matplotlib.use("svg")
    with plt.rc_context(STYLE):
        for draw in (lines, layer, verdicts, sizes, imports):
            draw()


if __name__ == "__main__":
    main()
