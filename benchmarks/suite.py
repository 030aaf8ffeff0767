"""The suite: one command, one table.

    python -m benchmarks                        # all of it, 9 to 10 minutes on 2 cores
    python -m benchmarks --only=scan,model      # some subjects
    python -m benchmarks --small                # tiny shapes: shows that everything runs, measures nothing

Every figure is printed as a line of JSON as soon as it is there; progress goes to standard error. The table comes at
the end, and goes with the lines into the folder `--output`.
"""

import argparse
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence

from benchmarks import attacks, campaign, figures, machine, model, scan, setting, startup, training
from mamba_jax import tuning

SUBJECTS: dict[str, Callable[[setting.Setting], Iterator[figures.Figure]]] = {
    "scan": scan.run,
    "model": model.run,
    "training": training.run,
    "attacks": attacks.run,
    "campaign": campaign.run,
    "startup": startup.run,
}
# Long: only where they are asked for by name.
MORE = {
    "attacks_t": attacks.run_t,
    "attacks_foolbox": attacks.run_foolbox,
    "attacks_one_image": attacks.run_one_image,
    "campaign_t": campaign.run_t,
}
RESULTS = pathlib.Path(__file__).parent / "results"
SMALL_NOTE = "**Small form: shapes are tiny, names are those of the full form. This shows that it runs, nothing more.**"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
      arguments: without the program's name; those of the process by default.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    chosen = _parse(arguments)
    tuning.tune_cpu()
    made = figures.about(shlex.join(["python", "-m", "benchmarks", *arguments]))
    say = setting.progress()
    found = []
    for figure in measure(chosen.only, setting.SMALL if chosen.small else setting.FULL, say):
        print(figures.json_line(figure, small=chosen.small), flush=True)
        found.append(figure)
    text = figures.page("Benchmarks", found, made, notes=[SMALL_NOTE] if chosen.small else [])
    print(f"\n{text}")
    folder = chosen.output / "small" if chosen.small else chosen.output
    figures.write(folder, found, text, made, small=chosen.small)
    say(f"written: {folder}")
    return 0


def measure(subjects: Sequence[str], sizes: setting.Sizes, say: Callable[[str], None]) -> Iterator[figures.Figure]:
    """The figures of some subjects, between two looks at what the machine can do.

    Args:
      subjects: names in `SUBJECTS` and `MORE`.
      sizes: shapes and repeats.
      say: shows a line of progress.
    """
    rates = _rates(sizes, say)
    yield from machine.as_figures(rates, when="before")
    given = setting.Setting(sizes=sizes, rates=rates, say=say)
    for name in subjects:
        yield from {**SUBJECTS, **MORE}[name](given)
    yield from machine.as_figures(_rates(sizes, say), when="after")


def _rates(sizes: setting.Sizes, say: Callable[[str], None]) -> machine.Rates:
    say("machine: matrix products and copies")
    return machine.measure(side=sizes.matrix_side, copied_bytes=sizes.copied_bytes, rounds=sizes.rounds)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    known = f"some of {','.join([*SUBJECTS, *MORE])} (default: all but {','.join(MORE)})"
    parser.add_argument("--only", type=_subjects, default=tuple(SUBJECTS), help=known)
    parser.add_argument("--small", action="store_true", help="tiny shapes, to see that everything runs")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS, help="folder of the results (%(default)s)")
    return parser.parse_args(arguments)


def _subjects(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    if unknown := [name for name in names if name not in (*SUBJECTS, *MORE)]:
        raise argparse.ArgumentTypeError(f"--only must name some of {(*SUBJECTS, *MORE)}, got {unknown[0]!r}")
    return names
