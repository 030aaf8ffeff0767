"""Rebuilds the tensors of a PyTorch zip checkpoint with a pickle reader that can do nothing else.

The archive (PyTorch >= 1.6) holds `NAME/data.pkl`, a pickle in which a tensor is a call of
`_rebuild_tensor_v2(storage, offset, size, stride, ...)`, and `NAME/data/KEY`, the bytes of one storage each, in the
order that `NAME/byteorder` names. A pickle may name any function of any module to call; here each name stands for one
of our own functions or for a dtype, nothing is imported, and every other name is refused.
"""

import io
import math
import operator
import pathlib
import pickle
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def load(path: pathlib.Path) -> Any:
    """The object that the checkpoint `path` pickles, each tensor a read-only array.

    Raises:
      ValueError: the file is truncated, of another format, or names a global that no tensor needs.
    """
    _check_format(path)
    try:
        with zipfile.ZipFile(path) as archive:
            prefix = _prefix(archive)
            return _Reader(archive, prefix).load()
    except _Refused as error:
        raise ValueError(f"cannot read {path}: {_one_line(error)}") from error
    # A damaged pickle fails in any of the ways in which calling with the wrong arguments can.
    except Exception as error:
        raise ValueError(f"cannot read {path}: damaged checkpoint ({_one_line(error)}); fetch it again") from error


def _check_format(path: pathlib.Path) -> None:
    if zipfile.is_zipfile(path):
        return
    with path.open("rb") as file:
        start = file.read(len(_LEGACY_MAGIC))
    if start == _LEGACY_MAGIC:
        reason = "written before PyTorch 1.6; save it again with torch.save of 1.6 or later, or as .safetensors"
    elif start.startswith(b"PK"):
        reason = "truncated zip archive; fetch the file again"
    else:
        reason = "not a PyTorch checkpoint; give a file written by torch.save, or a .safetensors file"
    raise ValueError(f"cannot read {path}: {reason}")


def _prefix(archive: zipfile.ZipFile) -> str:
    for name in archive.namelist():
        if name == "data.pkl" or name.endswith("/data.pkl"):
            return name.removesuffix("data.pkl")
    raise _Refused("a zip archive without data.pkl; give a file written by torch.save")


class _Refused(ValueError):
    """The content is not what a checkpoint holds; the message ends with the remedy."""


class _Storage(NamedTuple):
    """The flat values of a storage; a type of its own, so that a pickle cannot pass a tensor's view for one."""

    values: np.ndarray


class _Mapping(dict):
    """Stands for OrderedDict; drops the attributes that `state_dict()` hangs on it (its `_metadata`)."""

    def __setstate__(self, state: Any) -> None:
        del state


class _Reader(pickle.Unpickler):
    """Unpickles tensors, containers and plain values."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str):
        super().__init__(io.BytesIO(archive.read(f"{prefix}data.pkl")))
        self._archive = archive
        self._prefix = prefix
        self._storages: dict[str, _Storage] = {}
        order = f"{prefix}byteorder"
        self._order = ">" if order in archive.namelist() and archive.read(order).strip() == b"big" else "<"

    def find_class(self, module: str, name: str) -> Any:
        """What the global `module.name` stands for: storage classes for the name of their dtype."""
        if (module, name) == ("collections", "OrderedDict"):
            return _Mapping
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return self._tensor
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return self._parameter
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise _Refused(
            f"its pickle asks for {module}.{name}, which is refused: only tensors are rebuilt; "
            "save model.state_dict() alone, or .safetensors"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that ("storage", dtype, key, device, elements) names."""
        kind, dtype_name, key, _, elements = pid
        if kind != "storage" or dtype_name not in _STORAGES.values():
            raise _Refused("it refers to something other than a storage; save model.state_dict() alone")
        if key not in self._storages:
            self._storages[key] = self._read_storage(str(key), _dtype(dtype_name), int(elements))
        return self._storages[key]

    def _read_storage(self, key: str, dtype: np.dtype, elements: int) -> _Storage:
        entry = self._archive.getinfo(f"{self._prefix}data/{key}")
        # Checked before reading, so that a compressed entry cannot grow past what the tensors need.
        if entry.file_size != elements * dtype.itemsize:
            raise _Refused(
                f"storage {key} holds {entry.file_size} bytes where {elements} x {dtype} were announced; "
                "fetch the file again"
            )
        words = np.frombuffer(self._archive.read(entry), np.dtype(f"{self._order}u{dtype.itemsize}"))
        return _Storage(words.astype(words.dtype.newbyteorder("="), copy=False).view(dtype))

    def _tensor(self, storage: _Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
        """The strided view; strides and offset count elements. Gradient flag and hooks are dropped."""
        if not isinstance(storage, _Storage):
            raise _Refused(f"a tensor over a {type(storage).__name__}, not a storage; fetch the file again")
        values = storage.values
        offset, size, stride = operator.index(offset), _indices(size), _indices(stride)
        where = f"a tensor of size {size}, stride {stride}, offset {offset}"
        if len(size) != len(stride) or min((offset, *size, *stride)) < 0:
            raise _Refused(f"{where}; fetch the file again")
        if math.prod(size) == 0:
            return np.zeros(size, values.dtype)
        if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= values.size:
            raise _Refused(f"{where} reaches past its storage of {values.size} elements; fetch the file again")
        steps = [step * values.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)

    def _parameter(self, tensor: np.ndarray, *_: Any) -> np.ndarray:
        return tensor


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def _indices(values: tuple) -> tuple[int, ...]:
    return tuple(operator.index(value) for value in values)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
