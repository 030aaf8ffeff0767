"""The benchmarks' statistics, floors and formats, and that the whole suite runs in its small form. Nothing is timed."""

import functools
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import attacks, figures, floors, gpu, machine, setting, suite, timing
from benchmarks import scan as scan_benchmark
from mamba_jax import scan
from mamba_jax.scan import sequential, single
from threats import statistics

PROMISED = {
    "scan/sequential_vs_associative_forward": "x",
    "scan/sequential_vs_associative_grad": "x",
    "model/medmamba_t_28_forward": "s",
    "model/medmamba_t_28_grad": "s",
    "model/medmamba_t_224_forward": "s",
    "model/medmamba_t_224_grad_memory": "GB",
    "startup/first_step": "s",
    "startup/second_start_first_step": "s",
    "campaign/prefix_reuse_speedup": "x",
    "campaign/trials_per_s_medmamba_t": "trials/s",
    "campaign/trials_per_s_medmamba_n": "trials/s",
    "campaign/peak_memory": "GB",
    **{f"attacks/pgd_step_vs_grad_{name}": "x" for name in setting.SMALL.attacked},
    **{
        f"attacks/pgd_vs_foolbox{plain}{one}_{name}": "images/s"
        for plain in ("", "_plain")
        for one in ("", "_one_image")
        for name in setting.SMALL.attacked
    },
}
RATES = machine.Rates(100.0, 10.0, None, None)


@pytest.mark.parametrize(("count", "place"), [(6, 1), (8, 1), (9, 2), (12, 3), (20, 6), (100, 40)])
def test_the_median_and_its_order_statistics(count, place):
    samples = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert timing.median(samples) == ((count + 1) / 2, place, count + 1 - place, count)


@pytest.mark.parametrize("count", range(timing.SAMPLES_FOR_95, 60))
def test_the_interval_is_the_narrowest_with_95_percent(count):
    place = int(timing.median(np.arange(1.0, count + 1)).low)

    def coverage(place):
        return sum(math.comb(count, k) for k in range(place, count - place + 1)) / 2**count

    assert coverage(place) >= 0.95 > coverage(place + 1)


def test_few_samples_give_their_range():
    assert timing.median(np.array([3.0, 1.0, 2.0])) == (2.0, 1.0, 3.0, 3)
    assert timing.median(np.array([3.0])) == (3.0, 3.0, 3.0, 1)
    with pytest.raises(ValueError, match="at least one"):
        timing.median(np.array([]))


def test_a_ratio_is_taken_within_rounds():
    fast = np.array([1.0, 5.0, 2.0, 9.0, 3.0, 4.0])
    assert timing.ratio(2 * fast, fast) == (2.0, 2.0, 2.0, 6)


def test_a_rate_turns_the_interval_round():
    assert timing.rate(statistics.Interval(2.0, 1.0, 4.0, 7), 8.0) == (4.0, 2.0, 8.0, 7)


def test_rounds_run_every_function_once_forwards_and_backwards(monkeypatch):
    monkeypatch.setattr(timing, "_SHORTEST_SAMPLE", 0.0)
    called = []
    functions = {name: lambda name=name: called.append(name) for name in "abc"}
    seconds = timing.interleave(functions, timing.Rounds(least=2, most=2, seconds=0.0))
    assert "".join(called[-6:]) == "abccba"
    assert {name: samples.shape for name, samples in seconds.items()} == dict.fromkeys("abc", (2,))


def test_rounds_end_with_their_time_but_not_before_the_least():
    functions = {"a": lambda: None}
    assert len(timing.interleave(functions, timing.Rounds(least=3, most=9, seconds=0.0))["a"]) == 3
    assert len(timing.interleave(functions, timing.Rounds(least=1, most=4, seconds=60.0))["a"]) == 4
    with pytest.raises(ValueError, match="least=3 and most=2"):
        timing.Rounds(least=3, most=2)


def test_the_floor_is_what_takes_longer():
    assert floors.Work(200.0, 10.0).seconds(RATES) == 2.0
    assert floors.Work(200.0, 30.0).seconds(RATES) == 3.0
    assert floors.Work(1.0, 2.0).times(3) + floors.Work(1.0, 1.0) == floors.Work(4.0, 7.0)


def test_the_work_of_a_scan_by_hand():
    b, k, l, d, n = 2, 3, 5, 7, 11
    updates, e = b * k * l * d * n, floors.EXP_FLOPS
    forward = floors.scan_work(b, k, l, d, n, gradient=False)
    assert forward == floors.Work((6 + e) * updates + 210, 4 * (3 * 210 + 2 * 330 + 231))
    both = floors.scan_work(b, k, l, d, n, gradient=True)
    backward = floors.Work((18 + e) * updates + 4 * 210, 4 * (5 * 210 + 4 * 330 + 2 * 231))
    assert both == forward + backward


@pytest.mark.parametrize(("gradient", "most"), [(False, 1.25), (True, 1.7)])
def test_no_program_does_less_than_the_work_of_a_scan(gradient, most):
    """One step: the loops of `sequential` then run once, and XLA counts them right.

    It has a power of two of its own, of a few operations more than `EXP_FLOPS`.
    """
    flops = _flops(functools.partial(sequential._scan, False), gradient=gradient)
    assert 0.98 <= 2 * flops / floors.scan_work(2, 3, 2, 8, 32, gradient=gradient).flops <= most


@pytest.mark.parametrize("gradient", [False, True])
def test_no_program_does_less_than_the_work_of_one_step(gradient):
    flops = _flops(single.scan, gradient=gradient)
    assert 0.98 <= flops / floors.scan_work(2, 3, 1, 8, 32, gradient=gradient).flops <= 1.25


def _flops(function, *, gradient: bool) -> float:
    """What XLA counts for one step of (b, k, d, n) = (2, 3, 8, 32), of the values and, if asked, the gradients."""

    def both(*inputs):
        y, pullback = jax.vjp(function, *inputs)
        return y, pullback(y)

    inputs = jnp.ones((3, 32, 8)), *(jnp.ones((1, 2, 3, size)) for size in (8, 8, 32, 32))
    counted = jax.jit(both if gradient else function).lower(*inputs).cost_analysis()
    return counted["flops"] + floors.EXP_FLOPS * counted.get("transcendentals", 0.0)


def test_a_program_is_counted_with_its_scans_left_out_and_their_work_added():
    shape = (2, 3, 5, 8, 4)
    arguments = scan_benchmark.inputs(*shape)

    def function_of(method):
        return lambda *inputs: scan.selective_scan(*inputs, method=method)

    known = dict(scan.METHODS)
    compiled, work = floors.without_scan(function_of, *arguments, gradient=False)
    rest = floors.counted_work(compiled)
    assert work.flops == rest.flops + floors.scan_work(*shape, gradient=False).flops
    assert work.bytes == rest.bytes >= floors.scan_work(*shape, gradient=False).bytes
    u, dt, A, B, C = arguments
    product = u * dt * jnp.sum(B * C, -1, keepdims=True) * jnp.mean(A, -1)[None, :, None]
    np.testing.assert_allclose(compiled(*arguments), product, rtol=1e-5)
    with pytest.raises(ZeroDivisionError):
        floors.without_scan(lambda method: 1 / 0, gradient=False)
    assert known == scan.METHODS


def test_the_scans_that_are_compared_agree():
    arguments = scan_benchmark.inputs(2, 4, 16, 4, 2)
    for gradient in (False, True):
        found = [scan_benchmark.function(name, gradient=gradient)(*arguments) for name in scan_benchmark.methods()]
        for other in found[1:]:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found[0], other)


def _figure(**changes):
    interval = statistics.Interval(3.0, 2.0, 4.0, 9)
    return figures.Figure(**{"name": "a/b", "unit": "s", "interval": interval, "floor": 1.5, **changes})


def test_a_line_of_json():
    line = json.loads(figures.json_line(_figure(), small=False))
    assert line == {
        "name": "a/b", "value": 3.0, "unit": "s", "low": 2.0, "high": 4.0, "count": 9, "floor": 1.5, "times_floor": 2.0
    }  # fmt: skip
    assert json.loads(figures.json_line(_figure(), small=True))["small"] is True
    broken = statistics.Interval(math.nan, -math.inf, math.inf, 9)
    line = json.loads(figures.json_line(_figure(interval=broken, floor=None), small=False))
    assert line == {"name": "a/b", "value": None, "unit": "s", "low": None, "high": None, "count": 9}


def test_a_rate_stays_below_its_limit():
    assert _figure(unit="images/s", floor=6.0).times_floor == 2.0


def test_the_table_says_what_every_number_rests_on():
    other = {"other": "associative", "other_ratio": statistics.Interval(5.0, 4.0, 6.0, 3)}
    text = figures.table([_figure(**other), _figure(floor=None)], unmeasured=["on a GPU"])
    *_, first, second = text.splitlines()
    assert first == "| a/b | 3 | s | [2, 4] | 9 | 1.5 | 2 | associative: 5 range 4, 6 | not measured |"
    assert second == "| a/b | 3 | s | [2, 4] | 9 | - | - | - | not measured |"


def test_an_unknown_subject_is_refused(capsys):
    with pytest.raises(SystemExit):
        suite.main(["--only=scan,speed"])
    assert "got 'speed'" in capsys.readouterr().err


def test_every_subject_runs_and_every_promised_figure_is_there(tmp_path, capsys):
    assert suite.main(["--small", f"--only={','.join((*suite.SUBJECTS, *suite.MORE))}", f"--output={tmp_path}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [json.loads(line) for line in printed if line.startswith("{")]
    found = {line["name"]: line["unit"] for line in lines}
    assert found.items() >= PROMISED.items()
    assert {name.split("/")[0] for name in found} == {*suite.SUBJECTS, "machine"}
    assert len(found) == len(lines)
    for line in lines:
        assert line["small"]
        assert math.isfinite(line["value"])
        assert line["low"] <= line["value"] <= line["high"]
    written = tmp_path / "small"
    assert [json.loads(line) for line in (written / "results.jsonl").read_text().splitlines()] == lines
    page = (written / "results.md").read_text()
    assert suite.SMALL_NOTE in page
    assert all(f"| {name} |" in page for name in found)
    assert json.loads((written / "machine.json").read_text())["versions"]["jax"] == jax.__version__


def test_without_foolbox_a_line_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    said = []
    given = setting.Setting(sizes=setting.SMALL, rates=RATES, say=said.append)
    assert list(attacks.run_foolbox(given)) == []
    assert said == [attacks.NO_FOOLBOX]


def test_the_full_form_has_the_shapes_that_its_names_say():
    full = setting.FULL
    assert (full.model["name"], full.side_28, full.patch_28, full.batch) == ("medmamba_t", 28, 2, 32)
    assert (full.side_224, full.patch_224, full.batch_224) == (224, 4, 4)
    assert (min(full.scan_lengths), max(full.scan_lengths)) == (49, 3136)
    assert gpu.GPU.scan_shape == (64, 3136, 384, 16)


def test_what_a_device_refuses_costs_no_other_figure():
    def refused():
        raise NotImplementedError("no such kernel\nhere")

    def silent():
        raise NotImplementedError

    bench = gpu.Bench(gpu.SMALL, lambda line: None)
    assert list(bench._compare("scan", {"pallas": refused, "other": silent, "chunked": lambda: jnp.ones(1)})) == [
        "chunked"
    ]
    assert bench.left_out == [
        "scan, pallas: left out, NotImplementedError: no such kernel",
        "scan, other: left out, NotImplementedError: no message",
    ]


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="a GPU is there: the full form would run")
def test_without_a_gpu_the_column_is_not_measured(tmp_path, capsys):
    assert gpu.main([f"--output={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    names = {line["name"] for line in lines}
    assert {"gpu/scan_associative_forward", "gpu/training_bfloat16", "gpu/pgd_2_step"} <= names
    assert all(line["small"] for line in lines)
    rows = [line for line in (tmp_path / "results.md").read_text().splitlines() if line.startswith("| gpu/")]
    assert rows
    assert all(row.endswith("| not measured |") for row in rows)
