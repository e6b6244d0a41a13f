"""What a sweep varies: axes of config fields, and the networks that their product asks for."""

import ast
import itertools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments import methods

SEEDS = ("dataset.seed", "network.seed", "training.seed")
EVERY = "*"

Settings = tuple[tuple[str, Any], ...]


class Axes(NamedTuple):
    """A sweep's axes.

    Attributes:
      fields: values by config field, in order; their product is trained. ``seed`` stands for
        the seeds of data, network and training together; fields joined by ``+`` vary together,
        with a tuple of values for each.
      rules: amounts by rule: what is measured on every network.
    """

    fields: dict[str, tuple[Any, ...]]
    rules: dict[str, tuple[float, ...]]


class Cell(NamedTuple):
    """One network to train: its settings, ``(field, value)`` each."""

    settings: Settings

    @property
    def task(self) -> dict[str, Any]:
        """The settings as rows have them."""
        return dict(self.settings)

    def without(self, *names: str) -> Settings:
        """The settings but the named ones."""
        return tuple(pair for pair in self.settings if pair[0] not in names)


def read(config: Any, given: Iterable[str]) -> Axes:
    """Returns the axes of a config's ``sweep``, with those of the command line put over them.

    Args:
      config: its ``sweep`` is a tuple of pairs ``(field, values)``; none without.
      given: texts ``field=value,value``; a rule's name is a field, too.

    Raises:
      ValueError: for a text of another form, or a field that the config doesn't have.
    """
    found: dict[str, tuple[Any, ...]] = {
        name: tuple(values) for name, values in config.get("sweep", ())
    }
    for text in given:
        name, sign, listed = text.partition("=")
        if not sign or not name.strip():
            raise ValueError(f"--sweep={text}: expected field=value,value")
        found[name.strip()] = _values(listed)
    fields = {name: values for name, values in found.items() if not methods.known(name)}
    for name, values in fields.items():
        if not values:
            raise ValueError(f"the axis {name} has no values")
        if len(set(map(repr, values))) < len(values):
            raise ValueError(f"the axis {name} has a value twice")
        for field in _fields(name):
            _parent(config, field)
    amounts = {rule: tuple(values) for rule, values in config.rules.items()}
    amounts |= {
        rule: tuple(map(float, values)) for rule, values in found.items() if methods.known(rule)
    }
    return Axes(fields, {rule: values for rule, values in amounts.items() if values})


def _values(text: str) -> tuple[Any, ...]:
    """The values between commas: Python's, or words as they stand.

    >>> _values("(4,),1e-3"), _values("car,wilt"), _values("")
    (((4,), 0.001), ('car', 'wilt'), ())
    """
    try:
        return tuple(ast.literal_eval(f"({text},)")) if text.strip() else ()
    except (ValueError, SyntaxError):
        return tuple(part.strip() for part in text.split(",") if part.strip())


def cells(axes: Axes, data_dir: str | None) -> list[Cell]:
    """Returns the networks of a sweep, the last axis varying fastest.

    The value ``*`` of ``dataset.name`` stands for every table in ``data_dir``.
    """
    expanded = []
    for name, values in axes.fields.items():
        if name == "dataset.name" and values == (EVERY,):
            files = pathlib.Path(data_dir or ".").glob("*.parquet")
            values = tuple(sorted(path.stem for path in files))
            if not values:
                raise ValueError(f"dataset.name=*: no tables in {data_dir}")
        expanded.append([_settings(name, value) for value in values])
    return [Cell(tuple(itertools.chain(*parts))) for parts in itertools.product(*expanded)]


def _settings(name: str, value: Any) -> Settings:
    names = name.split("+")
    return tuple(zip(names, (value,) if len(names) == 1 else value, strict=True))


def _fields(name: str) -> list[str]:
    return [f for part in name.split("+") for f in (SEEDS if part == "seed" else (part,))]


def configured(config: Any, settings: Sequence[tuple[str, Any]]) -> ConfigDict:
    """Returns a copy of a config with fields set."""
    mine = ConfigDict(config.to_dict())
    for name, value in settings:
        for field in _fields(name):
            parent, last = _parent(mine, field)
            parent[last] = value
    return mine


def _parent(config: Any, field: str) -> tuple[Any, str]:
    *path, last = field.split(".")
    parent = config
    for part in path:
        parent = parent.get(part, None) if hasattr(parent, "get") else None
    if not hasattr(parent, "keys") or last not in parent:
        raise ValueError(f"the config has no field {field}")
    return parent, last
