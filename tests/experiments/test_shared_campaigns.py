"""Two processes that meet on this machine run one campaign: the rows of one process, and no process left waiting."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

from experiments import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = """
import os, pathlib, signal, sys
import jax, numpy as np

folder, port, index, what = pathlib.Path(sys.argv[1]), *sys.argv[2:]
import threats
from experiments import processes
from threats import campaigns, faults
from threats.campaigns import trials

if port:
    processes.join(processes.Cluster(f"localhost:{port}", 2, int(index)))

SPECS = {
    "strata": {"trials": 200, "drawing": "stratified", "pilot": 3},
    "half_width": {"half_width": 0.1, "metric": "sdc"},
}


class Folder:
    def __init__(self, name):
        self.path = folder / name
        self.path.mkdir(parents=True, exist_ok=True)
        self.saved = 0

    def load(self, start, stop):
        path = self.path / f"{start}-{stop}.npz"
        if not path.exists():
            return None
        with np.load(path) as kept:
            arrays = [kept[f"arr_{i}"] for i in range(len(kept.files))]
        return trials.Trials(*arrays[:3], faults.Faults(*arrays[3:7]), faults.TrialResult(*arrays[7:]))

    def save(self, some):
        start, stop = int(some.number[0]), int(some.number[-1]) + 1
        temporary = self.path / f"{start}-{stop}.{os.getpid()}.tmp"
        with temporary.open("wb") as file:
            np.savez(file, *jax.tree.leaves(some))
        temporary.rename(self.path / f"{start}-{stop}.npz")
        self.saved += some.count


def apply(variables, images):
    params = variables["params"]
    return jax.numpy.tanh(images.reshape(images.shape[0], -1) @ params["first"]) @ params["second"]


keys = jax.random.split(jax.random.key(0), 3)
variables = {"params": {"first": jax.random.normal(keys[0], (4, 3)), "second": jax.random.normal(keys[1], (3, 2))}}
images = jax.random.uniform(keys[2], (12, 2, 2, 1))
labels = jax.numpy.argmax(apply(variables, images), axis=-1)


def run(name, **options):
    spec = campaigns.CampaignSpec(**SPECS[name])
    store = Folder(name)
    found = threats.run_campaign(
        apply, variables, images, labels, spec, key=jax.random.key(3), task="multi-class", store=store, **options
    )
    np.savez(folder / f"{name}.{processes.shard()[0]}.npz", *jax.tree.leaves(found.trials))
    (folder / f"{name}.{processes.shard()[0]}.saved").write_text(str(store.saved))
    interval = found.overall(spec.metric)
    print(name, found.trials.count, found.stopped, repr(tuple(interval)), flush=True)


if not port:
    for name in SPECS:
        run(name)
else:
    try:
        faults.make_trial_fn(
            apply, images, labels, faults.weight_sites(variables), mesh=faults.trial_mesh(jax.devices())
        )
    except ValueError as error:
        print(error)
    together = {"shard": processes.shard(), "together": processes.together, "mesh": faults.trial_mesh()}
    if what == "fail" and index == "1":
        def watch(progress):
            os.kill(os.getpid(), signal.SIGKILL)
        run("strata", watch=watch, **together)
    elif what == "fail":
        try:
            run("strata", **together)
        except ValueError as error:
            print("error:", error, flush=True)
            os._exit(2)  # without a farewell that nobody answers
    else:
        for name in SPECS:
            run(name, **together)
"""


def _start(folder: pathlib.Path, *, port: int | str = "", index: int = 0, what: str = "all") -> subprocess.Popen:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(port), str(index), what],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(running: list[subprocess.Popen]) -> list[tuple[int, list[str], str]]:
    try:
        said = [process.communicate(timeout=300) for process in running]
    finally:
        for process in running:
            process.kill()
    lines = [[line for line in out.splitlines() if "Gloo" not in line] for out, _ in said]
    return [(p.returncode, out, err) for p, out, (_, err) in zip(running, lines, said, strict=True)]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def test_two_processes_give_the_rows_of_one(tmp_path):
    """In both: equal faults, values and counts, the loss to rounding, the same interval and the same last trial."""
    port = _free_port()
    alone, *both = _finish(
        [_start(tmp_path / "one")] + [_start(tmp_path / "two", port=port, index=i) for i in range(2)]
    )
    for code, _, err in (alone, *both):
        assert code == 0, err
    for _, (refusal, *lines), _ in both:
        assert refusal.startswith("mesh must be of this process's own devices")
        assert lines == alone[1]
    assert [line.split()[0] for line in alone[1]] == ["strata", "half_width"]
    assert " True " in alone[1][-1], "it stopped early"
    saved = [int((tmp_path / "two" / f"strata.{i}.saved").read_text()) for i in (1, 2)]
    assert min(saved) > 0
    assert sum(saved) == int(alone[1][0].split()[1]), "no trial has run twice"
    loss = 8  # of the leaves of `Trials`: three, four of the faults, accuracy, loss, ...
    for name in ("strata", "half_width"):
        with np.load(tmp_path / "one" / f"{name}.1.npz") as one:
            expected = [one[f"arr_{i}"] for i in range(len(one.files))]
        for index in (1, 2):
            with np.load(tmp_path / "two" / f"{name}.{index}.npz") as two:
                found = [two[f"arr_{i}"] for i in range(len(two.files))]
            for i, (a, b) in enumerate(zip(found, expected, strict=True)):
                if i == loss:
                    np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=name)
                else:
                    np.testing.assert_array_equal(a, b, err_msg=f"{name} {i}")


def test_where_one_process_dies_the_other_says_so(tmp_path):
    port = _free_port()
    good, bad = _finish([_start(tmp_path, port=port, index=i, what="fail") for i in range(2)])
    assert bad[0] == -9
    assert good[0] == 2, good[2]
    assert good[1][-1] == "error: another process has stopped, see what it said"
    assert list((tmp_path / "strata").glob("*.npz")), "what has run is kept"


def test_a_single_process_is_the_whole_campaign():
    assert processes.shard() == (1, 1)
    with processes.together():
        pass
