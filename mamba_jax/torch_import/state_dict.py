"""Reads a file of named tensors (`.pth` or `.safetensors`) as NumPy arrays.

A `.pth` is unpickled by `archive.load`, which knows only how tensors are rebuilt: an untrusted file cannot run code.
"""

import os
import pathlib
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from mamba_jax.torch_import import archive

# A training script saves the tensors bare or under one of these keys, beside its epoch and scores.
_WRAPPERS = ("state_dict", "model_state_dict", "model")

_SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Named tensors of a checkpoint, in the file's order, layouts and dtypes.

    `{"state_dict": ...}`, `{"model_state_dict": ...}` and `{"model": ...}` are unwrapped.

    Args:
      path: a `.safetensors` file, or a `.pth` in the zip format that PyTorch has written since 1.6.

    Returns:
      name -> array; those of a `.pth` are read-only views that share memory where the tensors did.

    Raises:
      ValueError: the file is missing, truncated or of another format, or asks for more than tensors.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"cannot read {path}: there is no such file; give the path of a .pth or .safetensors file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _tensors(archive.load(path), path)


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"cannot read {path}: {error}; fetch or convert the file again") from error
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in _SAFETENSORS_DTYPES:
            known = tuple(_SAFETENSORS_DTYPES)
            raise ValueError(f"cannot read {path}: {name!r} has dtype {entry['dtype']}; save it as one of {known}")
        flat = np.frombuffer(entry["data"], _SAFETENSORS_DTYPES[entry["dtype"]])
        tensors[name] = flat.reshape(entry["shape"])
    return tensors


def _tensors(content: Any, path: pathlib.Path) -> dict[str, np.ndarray]:
    """The mapping of names to tensors in `content`, which may hold it under one of `_WRAPPERS`."""
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    remedy = "save model.state_dict()"
    if not isinstance(content, dict) or not content:
        raise ValueError(f"cannot read {path}: its content is {_kind(content)}, not named tensors; {remedy}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise ValueError(f"cannot read {path}: entry {name!r} is {_kind(value)}, not a tensor; {remedy}")
    return dict(content)


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "a dict" if value else "an empty dict"
    return f"of type {type(value).__name__}"
