"""On a GPU, in one run: the scan against memory bandwidth, training at 224 px, an attack, vmapped fault trials.

    python -m benchmarks.gpu

Without a GPU the same program runs in a small form on the CPU, and its table says that the GPU's column is not
measured. What the device cannot run or hold is left out, and the page says why.
"""

import argparse
import dataclasses
import functools
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

import threats
from benchmarks import figures, floors, machine, scan, setting, steps, suite, timing
from mamba_jax import models, tuning
from threats import faults

_NUM_CLASSES = 8
NOT_MEASURED = "**No GPU here: a small form on the CPU, which shows that it runs. The GPU's column is not measured.**"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuSizes:
    """Shapes and repeats; the defaults are those of the figures on a GPU.

    Attributes:
      rounds, matrix_side, copied_bytes: as in `setting.Sizes`.
      scan_shape: (b, l, d, n).
      model: options of `create_model`. side, batch: of training and attack.
      attack_steps: of PGD.
      fault_images: images of a trial, at 28 px. trials_at_once: sizes of the vmapped groups.
    """

    rounds: timing.Rounds = dataclasses.field(default_factory=timing.Rounds)
    matrix_side: int = 8192
    copied_bytes: int = 2**31
    scan_shape: tuple[int, int, int, int] = (64, 3136, 384, 16)
    model: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "medmamba_t"})
    side: int = 224
    batch: int = 64
    attack_steps: int = 20
    fault_images: int = 1000
    trials_at_once: tuple[int, ...] = (1, 8, 64, 512)


GPU = GpuSizes()
SMALL = GpuSizes(
    rounds=setting.SMALL.rounds,
    matrix_side=64,
    copied_bytes=2**16,
    scan_shape=(2, 16, 4, 2),
    model=setting.SMALL.model,
    side=32,
    batch=2,
    attack_steps=2,
    fault_images=2,
    trials_at_once=(1, 2),
)


class Bench:
    """The benchmarks, each a generator of figures.

    Args:
      sizes: shapes and repeats.
      say: shows a line of progress.
    """

    def __init__(self, sizes: GpuSizes, say: Callable[[str], None]):
        self.sizes, self._say = sizes, say
        self.left_out: list[str] = []
        say("machine: matrix products and copies")
        self._rates = machine.measure(side=sizes.matrix_side, copied_bytes=sizes.copied_bytes, rounds=sizes.rounds)

    def run(self) -> Iterator[figures.Figure]:
        """All of them."""
        yield from machine.as_figures(self._rates, when="before")
        for gradient in (False, True):
            yield from self._scan(gradient)
        yield from self._train()
        yield from self._attack()
        yield from self._faults()
        self._say("machine: once more")
        rates = machine.measure(
            side=self.sizes.matrix_side, copied_bytes=self.sizes.copied_bytes, rounds=self.sizes.rounds
        )
        yield from machine.as_figures(rates, when="after")

    def _compare(self, what: str, functions: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
        """Seconds of those functions that run here."""
        self._say(f"{what}: {', '.join(functions)}")
        running = {name: function for name, function in functions.items() if self._runs(f"{what}, {name}", function)}
        return timing.interleave(running, self.sizes.rounds)

    def _runs(self, what: str, function: Callable[[], Any]) -> bool:
        """Whether it does, so that one kernel that a device refuses does not cost the other figures."""
        try:
            jax.block_until_ready(function())
        except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
            reason = next(iter(str(error).strip().splitlines()), "no message")
            self.left_out.append(f"{what}: left out, {type(error).__name__}: {reason}")
            self._say(self.left_out[-1])
            return False
        return True

    def _scan(self, gradient: bool) -> Iterator[figures.Figure]:
        """Each method against the bytes of a fused scan over the measured copy bandwidth, and against `associative`."""
        kind = "grad" if gradient else "forward"
        b, l, d, n = self.sizes.scan_shape
        arguments = scan.inputs(b, 0, l, d, n)
        compared = {
            method: functools.partial(scan.function(method, gradient=gradient), *arguments)
            for method in scan.methods()
            if method != "sequential"
        }
        seconds = self._compare(f"scan, {kind}", compared)
        floor = floors.scan_work(b, 1, l, d, n, gradient=gradient).bytes / self._rates.bytes
        for method, samples in seconds.items():
            against = {}
            if method != "associative" and "associative" in seconds:
                ratio = timing.ratio(seconds["associative"], samples)
                against = {"other": "associative", "other_ratio": ratio}
            interval = timing.median(samples)
            yield figures.Figure(name=f"gpu/scan_{method}_{kind}", unit="s", interval=interval, floor=floor, **against)

    def _train(self) -> Iterator[figures.Figure]:
        """Training images per second in bfloat16, norms' statistics and recurrence in float32, and in float32."""
        options = {**self.sizes.model, "num_classes": _NUM_CLASSES, "image_size": self.sizes.side, "patch_size": 4}
        compared = {dtype: steps.Steps(options | extra, self.sizes.batch) for dtype, extra in _dtypes().items()}
        for dtype, samples in self._compare("training", compared).items():
            interval = timing.rate(timing.median(samples), self.sizes.batch)
            yield figures.Figure(name=f"gpu/training_{dtype}", unit="images/s", interval=interval)

    def _attack(self) -> Iterator[figures.Figure]:
        """The time of PGD over its steps; the two passes around them are counted in."""
        model, variables = self._model(self.sizes.side, 4)
        count, batch = self.sizes.attack_steps, self.sizes.batch
        attack = jax.jit(functools.partial(threats.pgd, model.apply, steps=count))
        images, labels = setting.images(batch, self.sizes.side), setting.labels(batch)
        called = functools.partial(attack, variables, images, labels, key=jax.random.key(0), epsilon=8 / 255)
        for samples in self._compare("attack", {f"PGD-{count}": called}).values():
            interval = timing.median(samples / count)
            yield figures.Figure(name=f"gpu/pgd_{count}_step", unit="s", interval=interval)

    def _faults(self) -> Iterator[figures.Figure]:
        """Weight-fault trials per second, a whole group under one vmap."""
        model, variables = self._model(28, 2)
        count = self.sizes.fault_images
        images, labels = setting.images(count, 28), setting.labels(count)
        table = faults.weight_sites(variables)
        reference = jax.jit(functools.partial(faults.fault_free_logits, model.apply))(variables, images)
        for trials in self.sizes.trials_at_once:
            run_trials = faults.make_trial_fn(
                model.apply, images, labels, table, strategy="vmap", trials_at_once=trials, reference=reference
            )
            drawn = faults.random_faults(jax.random.key(0), table, trials=trials, flips=1)
            called = {f"{trials} at once": functools.partial(run_trials, variables, drawn)}
            for samples in self._compare("fault trials", called).values():
                interval = timing.rate(timing.median(samples), trials)
                yield figures.Figure(name=f"gpu/fault_trials_{trials}_at_once", unit="trials/s", interval=interval)

    def _model(self, side: int, patch: int) -> tuple[models.Model, Any]:
        model = models.create_model(**self.sizes.model, num_classes=_NUM_CLASSES, image_size=side, patch_size=patch)
        return model, model.init(jax.random.key(0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
      arguments: without the program's name; those of the process by default.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=suite.RESULTS / "gpu", help="folder of the results")
    output = parser.parse_args(arguments).output
    tuning.tune_cpu()
    here = jax.default_backend() == "gpu"
    made = figures.about(shlex.join(["python", "-m", "benchmarks.gpu", *arguments]))
    found = []
    bench = Bench(GPU if here else SMALL, setting.progress())
    for figure in bench.run():
        print(figures.json_line(figure, small=not here), flush=True)
        found.append(figure)
    notes, unmeasured = ([], ()) if here else ([NOT_MEASURED], ("on a GPU",))
    notes = [*notes, *bench.left_out]
    text = figures.page("Benchmarks on a GPU", found, made, notes=notes, unmeasured=unmeasured)
    print(f"\n{text}")
    figures.write(output, found, text, made, small=not here)
    return 0


def _dtypes() -> dict[str, dict[str, str]]:
    """Options of `create_model` by name of what is trained in."""
    return {"bfloat16": {"dtype": "bfloat16"}, "float32": {}}


if __name__ == "__main__":
    sys.exit(main())
