"""Checkpoints are written here opcode by opcode, as PyTorch writes them, and read back without it."""

import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mamba_jax import torch_import

STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."


def glob(module, name):
    return f"c{module}\n{name}\n".encode()


def plain(value):
    """The opcodes of a value without globals."""
    return pickle.dumps(value, protocol=2)[2:-1]


def call(function, *arguments):
    return function + b"(" + b"".join(arguments) + b"tR"


def storage(key, elements, kind="FloatStorage"):
    return b"(" + plain("storage") + glob("torch", kind) + plain(key) + plain("cpu") + plain(elements) + b"tQ"


def tensor(stored, offset, size, stride):
    hooks = call(glob("collections", "OrderedDict"))
    rebuild = glob("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, stored, plain(offset), plain(size), plain(stride), plain(False), hooks)


def ordered(**entries):
    """An OrderedDict of name -> opcodes, with the attribute that `state_dict()` hangs on it."""
    items = b"".join(plain(name) + opcodes for name, opcodes in entries.items())
    mapping = call(glob("collections", "OrderedDict")) + b"(" + items + b"u"
    return mapping + b"}(" + plain("_metadata") + plain({"version": 1}) + b"ub"


def checkpoint(folder, content, storages, byteorder="little") -> pathlib.Path:
    path = folder / "net.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("net/byteorder", byteorder)
        for key, values in storages.items():
            archive.writestr(f"net/data/{key}", values if isinstance(values, bytes) else values.tobytes())
    return path


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("kind", STORAGES)
def test_every_dtype_is_read(tmp_path, kind, byteorder):
    values = np.array([0, 1, 3, 100, 1, 0]).astype(STORAGES[kind])
    stored = values.byteswap() if byteorder == "big" else values
    content = ordered(w=tensor(storage("0", 6, kind), 0, (2, 3), (3, 1)))
    read = torch_import.read_state_dict(checkpoint(tmp_path, content, {"0": stored}, byteorder))["w"]
    assert read.dtype == values.dtype
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, values.reshape(2, 3))


def test_strides_offsets_and_shared_storages_are_respected(tmp_path):
    values = np.arange(12, dtype=np.float32)
    stored = storage("0", 12)
    content = ordered(
        transposed=tensor(stored, 2, (3, 2), (1, 5)),
        tail=tensor(stored, 9, (3,), (1,)),
        scalar=tensor(stored, 7, (), ()),
        expanded=tensor(stored, 4, (2, 3), (0, 1)),
        empty=tensor(stored, 0, (0, 3), (3, 1)),
    )
    read = torch_import.read_state_dict(checkpoint(tmp_path, content, {"0": values}))
    assert list(read) == ["transposed", "tail", "scalar", "expanded", "empty"]
    np.testing.assert_array_equal(read["transposed"], [[2, 7], [3, 8], [4, 9]])
    np.testing.assert_array_equal(read["tail"], [9, 10, 11])
    np.testing.assert_array_equal(read["scalar"], 7)
    np.testing.assert_array_equal(read["expanded"], [[4, 5, 6], [4, 5, 6]])
    assert read["empty"].shape == (0, 3)
    assert np.shares_memory(read["transposed"], read["tail"])


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (5,), (1,)), (2, (3,), (1,)), (0, (2, 2), (3, 1)), (3, (2,), (-1,)), (-1, (2,), (1,)), (0, (2, 2), (1,))],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, offset, size, stride):
    path = checkpoint(tmp_path, ordered(w=tensor(storage("0", 4), offset, size, stride)), {"0": np.zeros(4, "f4")})
    with pytest.raises(ValueError, match=r"net\.pth: a tensor of size .* fetch the file again"):
        torch_import.read_state_dict(path)


def test_a_tensor_over_a_tensor_is_refused(tmp_path):
    # A view stretched by stride 0 is larger than its memory: it must not pass as a storage to index into.
    inner = tensor(storage("0", 4), 0, (1000,), (0,))
    path = checkpoint(tmp_path, ordered(w=tensor(inner, 500, (400,), (1,))), {"0": np.zeros(4, "f4")})
    with pytest.raises(ValueError, match="over a ndarray, not a storage"):
        torch_import.read_state_dict(path)


def test_a_storage_of_another_length_is_refused(tmp_path):
    path = checkpoint(tmp_path, ordered(w=tensor(storage("0", 4), 0, (4,), (1,))), {"0": np.zeros(3, "f4")})
    with pytest.raises(ValueError, match=r"storage 0 holds 12 bytes where 4 x float32 were announced"):
        torch_import.read_state_dict(path)


@pytest.mark.parametrize("module", ["os", "posix"])
def test_a_pickle_that_runs_a_command_is_refused_and_not_run(tmp_path, module):
    marker = tmp_path / "ran"
    content = ordered(w=call(glob(module, "system"), plain(f"touch {marker}")))
    with pytest.raises(ValueError, match=rf"asks for {module}\.system, which is refused") as caught:
        torch_import.read_state_dict(checkpoint(tmp_path, content, {}))
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_qtensor"),
        ("collections", "OrderedDict.fromkeys"),
        ("argparse", "Namespace"),
    ],
)
def test_every_other_global_is_refused_by_name(tmp_path, module, name):
    content = ordered(w=plain(1), args=glob(module, name))
    with pytest.raises(ValueError, match=rf"net\.pth: its pickle asks for {module}\.{name}, .*model\.state_dict\(\)"):
        torch_import.read_state_dict(checkpoint(tmp_path, content, {}))


def test_stack_global_is_refused_too(tmp_path):
    content = b"\x80\x04" + b"\x8c\x02os\x8c\x06system\x93" + b"\x8c\x04true\x85R."
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", content)
    with pytest.raises(ValueError, match=r"asks for os\.system"):
        torch_import.read_state_dict(path)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_wrappers_and_parameters_are_unwrapped(tmp_path, key):
    rebuild = glob("torch._utils", "_rebuild_parameter")
    stored = tensor(storage("0", 2), 0, (2,), (1,))
    parameter = call(rebuild, stored, plain(True), call(glob("collections", "OrderedDict")))
    content = b"}(" + plain("epoch") + plain(7) + plain(key) + ordered(w=parameter) + b"u"
    read = torch_import.read_state_dict(checkpoint(tmp_path, content, {"0": np.array([1, 2], "f4")}))
    assert list(read) == ["w"]
    np.testing.assert_array_equal(read["w"], [1, 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (plain([1, 2]), "its content is of type list, not named tensors"),
        (b"}", "its content is an empty dict, not named tensors"),
        (plain({"epoch": 3}), "entry 'epoch' is of type int, not a tensor"),
    ],
)
def test_content_without_tensors_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        torch_import.read_state_dict(checkpoint(tmp_path, content, {}))


def test_a_damaged_file_is_named_in_one_line(tmp_path):
    path = checkpoint(tmp_path, ordered(w=tensor(storage("0", 64), 0, (64,), (1,))), {"0": np.ones(64, "f4")})
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(np.ones(64, "f4").tobytes()) + 5] ^= 0x10
    damaged = {
        "truncated zip archive": [whole[: len(whole) // 2], whole[:-10]],
        "damaged checkpoint": [bytes(flipped)],
        "not a PyTorch checkpoint": [b"", b"\x93NUMPY"],
        "written before PyTorch 1.6; save it again": [LEGACY],
    }
    for message, contents in damaged.items():
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(ValueError, match=rf"^cannot read .*net\.pth: {message}[^\n]*$"):
                torch_import.read_state_dict(path)


def test_a_missing_storage_or_pickle_or_file_is_named(tmp_path):
    path = checkpoint(tmp_path, ordered(w=tensor(storage("0", 4), 0, (4,), (1,))), {})
    with pytest.raises(ValueError, match="no item named 'net/data/0'"):
        torch_import.read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(ValueError, match=r"without data\.pkl"):
        torch_import.read_state_dict(path)
    with pytest.raises(ValueError, match=r"absent\.pth: there is no such file"):
        torch_import.read_state_dict(tmp_path / "absent.pth")


def test_safetensors_are_read(tmp_path):
    path = tmp_path / "net.safetensors"
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, 2], np.int64)}
    safetensors.numpy.save_file(tensors, path)
    read = torch_import.read_state_dict(str(path))
    for name, values in tensors.items():
        assert read[name].dtype == values.dtype
        np.testing.assert_array_equal(read[name], values)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"^cannot read .*net\.safetensors: [^\n]*; fetch or convert the file again$"):
        torch_import.read_state_dict(path)


def test_bfloat16_safetensors_are_read(tmp_path):
    header = b'{"a":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}}'
    values = np.array([1, -2, 0.5], ml_dtypes.bfloat16)
    (tmp_path / "net.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    read = torch_import.read_state_dict(tmp_path / "net.safetensors")["a"]
    assert read.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read, values)
