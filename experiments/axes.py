"""What a sweep varies: axes of config fields, and the networks that their product asks for.

A network is told by its task, a dict of what it has for each axis, as rows have it.
"""

import ast
import functools
import itertools
import operator
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments import journal, methods
from experiments.journal import Row

SEEDS = ("dataset.seed", "network.seed", "training.seed")
EVERY = "*"


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


def read(config: Any, given: Iterable[str]) -> Axes:
    """Returns the axes of a config's ``sweep``, with those of the command line put over them.

    Args:
      config: its ``sweep`` is a tuple of pairs ``(field, values)``; none without.
      given: texts ``field=value,value``; a rule's name is a field, too.

    Raises:
      ValueError: for a text of another form, or a field that the config doesn't have.
    """
    found = {name: tuple(values) for name, values in config.get("sweep", ())}
    for text in given:
        name, sign, listed = text.partition("=")
        if not sign or not name.strip():
            raise ValueError(f"--sweep={text}: expected field=value,value")
        found[name.strip()] = _values(listed)
    rules = {rule: tuple(values) for rule, values in config.rules.items()}
    rules |= {name: tuple(map(float, found.pop(name))) for name in [*found] if methods.known(name)}
    there = journal.flat(config)
    for name, values in found.items():
        if not values:
            raise ValueError(f"the axis {name} has no values")
        if len(set(map(repr, values))) < len(values):
            raise ValueError(f"the axis {name} has a value twice")
        for field in itertools.chain(*map(_fields, name.split("+"))):
            if field not in there:
                raise ValueError(f"the config has no field {field}")
    return Axes(found, {rule: values for rule, values in rules.items() if values})


def _values(text: str) -> tuple[Any, ...]:
    """The values between commas: Python's, or words as they stand.

    >>> _values("(4,),1e-3"), _values("car,wilt"), _values("")
    (((4,), 0.001), ('car', 'wilt'), ())
    """
    try:
        return tuple(ast.literal_eval(f"({text},)")) if text.strip() else ()
    except (ValueError, SyntaxError):
        return tuple(part.strip() for part in text.split(",") if part.strip())


def tasks(axes: Axes, data_dir: str | None) -> list[Row]:
    """Returns the networks of a sweep, the last axis varying fastest.

    The value ``*`` of ``dataset.name`` stands for every table in ``data_dir``.
    """
    fields = dict(axes.fields)
    if fields.get("dataset.name") == (EVERY,):
        files = pathlib.Path(data_dir or ".").glob("*.parquet")
        fields["dataset.name"] = tuple(sorted(path.stem for path in files))
        if not fields["dataset.name"]:
            raise ValueError(f"dataset.name=*: no tables in {data_dir}")
    parts = [
        [dict(zip(names, (value,) if len(names) == 1 else value, strict=True)) for value in values]
        for name, values in fields.items()
        for names in [name.split("+")]
    ]
    return [functools.reduce(operator.or_, some, {}) for some in itertools.product(*parts)]


def _fields(name: str) -> tuple[str, ...]:
    return SEEDS if name == "seed" else (name,)


def configured(config: Any, task: Row) -> ConfigDict:
    """Returns a copy of a config with a task's fields set."""
    mine = ConfigDict(config.to_dict())
    for name, value in task.items():
        for field in _fields(name):
            *path, last = field.split(".")
            functools.reduce(operator.getitem, path, mine)[last] = value
    return mine
