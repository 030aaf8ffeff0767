"""A configuration as plain data, which stays as it is when the configuration gains fields.

A field that was added after files had been written is left out while it has its default, so that what identifies a run
or lies in a file today still equals what was written before the field was there.
"""

import dataclasses
from typing import Any

_LATER = "left out while it has its default"


def later(default: Any) -> Any:
    """A field of a dataclass that files written before it was there do not have: its default is what they meant."""
    return dataclasses.field(default=default, metadata={_LATER: True})


def describe(config: Any) -> dict[str, Any]:
    """A dataclass as nested dicts and plain values, without `later` fields that have their default.

    Args:
      config: an instance; fields that are dataclasses are described likewise, others are kept as they are.
    """
    kept = (
        (field.name, getattr(config, field.name))
        for field in dataclasses.fields(config)
        if not field.metadata.get(_LATER) or getattr(config, field.name) != field.default
    )
    return {name: describe(value) if dataclasses.is_dataclass(value) else value for name, value in kept}
