import os
import subprocess
import sys

from mamba_jax import tuning

_NAME = "xla_cpu_enable_concurrency_optimized_scheduler"


def test_flags_are_added_once_and_to_what_is_there(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    tuning.tune_cpu()
    tuning.tune_cpu()
    assert os.environ["XLA_FLAGS"] == f"--xla_force_host_platform_device_count=2 --{_NAME}=false"


def test_what_the_user_says_stays(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--{_NAME}=true")
    tuning.tune_cpu()
    assert os.environ["XLA_FLAGS"] == f"--{_NAME}=true"


def test_the_name_of_a_file_of_flags_stays(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "flags.txt")
    tuning.tune_cpu()
    assert os.environ["XLA_FLAGS"] == "flags.txt"


def test_a_process_that_is_tuned_takes_less_memory():
    """Also shows that this XLA knows the flags: it ends the process at one that it does not know."""
    untuned, tuned = _memory(""), _memory("mamba_jax.tune_cpu()")
    assert 0 < tuned < 0.8 * untuned


def _memory(call: str) -> int:
    program = f"""
import jax
import mamba_jax
{call}
model = mamba_jax.create_model("medmamba", num_classes=2, depths=(2, 0, 0, 0), dims=(8, 16, 32, 64), d_state=4)
variables = jax.eval_shape(model.init, jax.random.key(0))
images = jax.ShapeDtypeStruct((32, 28, 28, 3), "float32")
gradient = jax.grad(lambda params, rest, x: model.apply({{**rest, "params": params}}, x).sum())
print(jax.jit(gradient).lower(variables["params"], variables, images).compile().memory_analysis().temp_size_in_bytes)
"""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_programs_of_any_size_are_kept_for_the_next_process(tmp_path):
    program = "import jax, mamba_jax.tuning as t; t.keep_programs(); jax.jit(lambda x: x + 1)(1.0).block_until_ready()"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        environment.pop(name, None)
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=300)
    assert list((tmp_path / "mamba_reliability" / "jax").glob("*-cache"))
