"""NamedTuples to JSON and back; reading believes nothing that the annotations don't say."""

import types
import typing
from typing import Any, TypeVar

from linjax.errors import StoreError

T = TypeVar("T")


def encode(value: Any) -> Any:
    """Returns a value of nested NamedTuples and tuples as JSON's dicts and lists.

    Example:
      >>> from linjax.dims.sites import Refusal
      >>> encode((Refusal("Conv_0", "a convolution"),))
      [{'name': 'Conv_0', 'reason': 'a convolution'}]
    """
    if hasattr(value, "_asdict"):
        return {name: encode(field) for name, field in value._asdict().items()}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], data: Any, where: str) -> T:
    """Rebuilds a value of the annotated type from JSON.

    Args:
      kind: a NamedTuple, ``tuple[...]``, a union with None, ``str``, ``int``, ``float``,
        ``bool`` or ``Any``. Fields with a default may be absent.
      data: what JSON held.
      where: name of the place, for messages.

    Returns:
      The value.

    Raises:
      StoreError: naming the place where data isn't of this type.

    Example:
      >>> from linjax.dims.sites import Refusal
      >>> decode(Refusal, {"name": "Conv_0", "reason": "a convolution"}, "refusal")
      Refusal(name='Conv_0', reason='a convolution')
    """
    decoder: Any = _decoder(kind)
    return decoder(kind, data, where)


def _decoder(kind: Any) -> Any:
    if kind is Any:
        return lambda _, data, where: data
    if typing.get_origin(kind) is tuple:
        return _tuple
    if isinstance(kind, types.UnionType):
        return _optional
    if hasattr(kind, "_fields"):
        return _fields
    return _scalar


def _fields(kind: Any, data: Any, where: str) -> Any:
    # Fields that a later linjax added have defaults: files from before don't tell of them.
    known, needed = set(kind._fields), set(kind._fields) - kind._field_defaults.keys()
    if not isinstance(data, dict) or not needed <= data.keys() <= known:
        have = ", ".join(sorted(data)) if isinstance(data, dict) else type(data).__name__
        raise StoreError(f"{where}: has {have:.200}, expected {', '.join(kind._fields)}")
    hints = typing.get_type_hints(kind)
    return kind(**{n: decode(hints[n], data[n], f"{where}.{n}") for n in kind._fields if n in data})


def _tuple(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, list):
        raise StoreError(f"{where}: {type(data).__name__}, expected a list")
    items = typing.get_args(kind)
    if items[-1] is Ellipsis:
        items = items[:1] * len(data)
    if len(items) != len(data):
        raise StoreError(f"{where}: {len(data)} entries, expected {len(items)}")
    return tuple(
        decode(k, d, f"{where}[{i}]") for i, (k, d) in enumerate(zip(items, data, strict=True))
    )


def _optional(kind: Any, data: Any, where: str) -> Any:
    if data is None:
        return None
    return decode(typing.get_args(kind)[0], data, where)


def _scalar(kind: Any, data: Any, where: str) -> Any:
    # JSON writes 1.0 as 1 in other hands; true is an int in Python, never here.
    if kind is float and type(data) is int and abs(data) < 2**53:
        return float(data)
    if type(data) is not kind:
        raise StoreError(f"{where}: {type(data).__name__}, expected {kind.__name__}")
    return data
