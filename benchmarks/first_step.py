"""In a process of its own: builds MedMamba-T and does one training step. Started by `startup`."""

import time

import jax

from benchmarks import children, steps
from mamba_jax import tuning


def main() -> None:
    """Does the step, and answers with the time of day when it was finished."""
    given = children.arguments()
    tuning.keep_programs()
    jax.block_until_ready(steps.Steps(given["options"], given["batch"])())
    children.answer({"finished": time.time()})


if __name__ == "__main__":
    main()
