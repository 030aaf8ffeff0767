"""Shared test settings: strict promotion, warnings as errors, and where real data and golden vectors are."""

import os
import pathlib

# Tests compile hundreds of small programs and run each a few times: compile them with little optimisation. Subprocesses
# that tests start inherit it. Measured on the golden parity tests: 22 to 46 s of compilation become 4 to 5 s.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
    )
)
# Many tests compile the same program again: trainings that are resumed, the runner in another process.
_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax  # noqa: E402 (the settings above are read when it starts)
import pytest  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True)
def _flags_of_xla_stay(monkeypatch):
    """What a test adds for processes that it starts is gone after it."""
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"])


def _directory(variable: str, what: str) -> pathlib.Path:
    value = os.environ.get(variable)
    if not value or not pathlib.Path(value).is_dir():
        pytest.skip(f"{variable} does not name the directory of {what}")
    return pathlib.Path(value)


@pytest.fixture(scope="session")
def medmnist_root() -> pathlib.Path:
    """The directory of official MedMNIST files."""
    return _directory("MEDMNIST_ROOT", "official MedMNIST files")


@pytest.fixture(scope="session")
def golden_root() -> pathlib.Path:
    """The directory of the published network's weights and outputs."""
    return _directory("GOLDEN_ROOT", "the published network's golden vectors")


@pytest.fixture(scope="session")
def pbc_file(medmnist_root: pathlib.Path) -> pathlib.Path:
    """The real blood cells in MedMNIST layout, beside the official files."""
    path = medmnist_root.parent / "pbc" / "pbc_blood_28.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path
