"""JSON as frozen dataclasses, so that the fields of a record are named and checked in one place."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def read(kind: type[T], found: object, source: object = None) -> T:
    """``found``, as ``json.loads`` returns it, as the dataclass ``kind`` with everything below it.

    A type may be a dataclass, ``tuple[X, ...]``, ``dict[str, X]`` or ``dict[int, X]`` (whose keys JSON has
    as text), an optional of these, a scalar, or ``Any``. Fields that ``kind`` does not have are ignored, so
    that a reader names only what it uses; fields that the record does not have take their default.

    Raises:
        ValueError: a field without a default is missing, or a value has another type. The message has the
            path of the field, after ``source`` where that is known.
    """
    return cast(T, _read(kind, found, kind.__name__ if source is None else f"{source}: {kind.__name__}"))


def null() -> Any:
    """A field that is None where nothing is known: older records may lack it, new ones have a ``null``."""
    return dataclasses.field(default=None, metadata={"null": True})


def as_json(value: Any) -> Any:
    """``value`` as :func:`read` takes it; optional fields that are None are left out, save :func:`null`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((name, getattr(value, name), told) for name, _, _, told in _fields(type(value)))
        return {name: as_json(one) for name, one, told in items if one is not None or told}
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    return [as_json(one) for one in value] if isinstance(value, list | tuple) else value


@cache
def _fields(kind: type) -> tuple[tuple[str, Any, bool, bool], ...]:
    """Of each field its name, its type, whether it may be missing, and whether it is written if None."""
    hints = get_type_hints(kind)
    missing = dataclasses.MISSING
    found = []
    for field in dataclasses.fields(kind):
        if field.init:
            optional = field.default is not missing or field.default_factory is not missing
            found.append((field.name, hints[field.name], optional, not optional or "null" in field.metadata))
    return tuple(found)


def _read(kind: Any, found: Any, where: str) -> Any:
    if kind is Any:
        return found
    outer, inner = get_origin(kind), get_args(kind)
    if outer in (Union, types.UnionType):
        if found is None and types.NoneType in inner:
            return None
        (kind,) = (one for one in inner if one is not types.NoneType)
        return _read(kind, found, where)
    if dataclasses.is_dataclass(kind):
        return _read_fields(cast(type, kind), _checked(found, Mapping, where), where)
    if outer is tuple:
        values = _checked(found, list | tuple, where)
        if inner[-1] is Ellipsis:
            return tuple(_read(inner[0], value, f"{where}[{at}]") for at, value in enumerate(values))
        if len(inner) != len(values):
            raise ValueError(f"{where}: {len(values)} values, expected {len(inner)}")
        return tuple(
            _read(one, value, f"{where}[{at}]") for at, (one, value) in enumerate(zip(inner, values))
        )
    if outer is dict:
        items = _checked(found, Mapping, where).items()
        return {inner[0](key): _read(inner[1], value, f"{where}.{key}") for key, value in items}
    return _checked(found, int | float if kind is float else kind, where)


def _read_fields(kind: type, found: Mapping[str, Any], where: str) -> Any:
    values = {}
    for name, inner, optional, _ in _fields(kind):
        if name in found:
            values[name] = _read(inner, found[name], f"{where}.{name}")
        elif not optional:
            raise ValueError(f"{where} has no {name}")
    return kind(**values)


def _checked(found: Any, kind: Any, where: str) -> Any:
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        expected = getattr(kind, "__name__", str(kind))
        raise ValueError(f"{where} is {type(found).__name__} {str(found)[:40]!r}, expected {expected}")
    return found
