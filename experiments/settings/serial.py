"""Configurations to JSON and back unchanged, and in words how two of them disagree."""

import dataclasses
import types
import typing
from typing import Any

from mamba_jax import identity


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as nested dicts, lists and scalars, without what `mamba_jax.identity` leaves out."""
    return _plain(identity.describe(config))


def from_json(cls: type, values: dict[str, Any]) -> Any:
    """The configuration of class `cls`, `config.ExperimentConfig` for instance, that `to_json` wrote.

    Raises:
      ValueError: a name is unknown or a value is refused.
    """
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{cls.__name__} has no {unknown[0]!r}; it has {', '.join(known)}")
    return cls(**{name: _typed(value, hints[name]) for name, value in values.items()})


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """What two nested dicts disagree on, a line each: `fault.trials: 400 -> 800`."""
    lines = []
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += difference(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name}: {before} -> {after}")
    return lines


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


def _typed(value: Any, hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return None if value is None else _typed(value, next(h for h in hint.__args__ if h is not types.NoneType))
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value)
    return tuple(value) if typing.get_origin(hint) is tuple else value
