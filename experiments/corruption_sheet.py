"""One image under every corruption, as a figure.

    python -m experiments.corruption_sheet --npz=cells.npz --image=3 --severity=3 --output=sheet.png

The image is of the file's test images, in MedMNIST layout; strengths are those for its size. Exit codes as of
`experiments.run`.
"""

import pathlib
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import commands
from experiments.reporting import style, tables
from mamba_jax import data
from threats import corruptions

_COLUMNS = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
      arguments: without the program's name; those of the process by default.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("npz", None, "file of images in MedMNIST layout", flag_values=values)
    flags.DEFINE_integer("image", 0, "which of its test images", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("severity", 3, "of 1 to 5", flag_values=values)
    flags.DEFINE_integer("seed", 0, "of what is random", flag_values=values)
    flags.DEFINE_list("corruptions", list(corruptions.CORRUPTIONS), "which", flag_values=values)
    flags.DEFINE_string("output", "corruptions.png", "the figure", flag_values=values)

    def body(rest: list[str]) -> list[str]:
        commands.no_arguments(rest)
        if values.npz is None:
            raise ValueError("give --npz=FILE in MedMNIST layout")
        images = data.load_npz(values.npz).splits["test"].images
        if values.image >= len(images):
            raise ValueError(f"image must be below {len(images)}, the number of test images, got {values.image}")
        drawn = sheet(images[values.image], values.corruptions, severity=values.severity, seed=values.seed)
        return [str(style.save(drawn, pathlib.Path(values.output)))]

    return commands.call("experiments.corruption_sheet", __doc__, values, body, arguments)


def sheet(image: np.ndarray, names: Sequence[str], *, severity: int, seed: int = 0):
    """The image as it is and under each corruption, with the names above.

    Args:
      image: [h, w, c] uint8.
      names: of `corruptions.CORRUPTIONS`.
      severity: 1 to 5.
      seed: of what is random.

    Raises:
      ValueError: a name or the severity is unknown.
    """
    shown = {"as it is": np.asarray(image) / 255}
    for number, name in enumerate(names):
        key = jax.random.fold_in(jax.random.key(seed), number)
        floats = jnp.asarray(shown["as it is"], jnp.float32)
        shown[tables.words(name)] = np.asarray(corruptions.corrupt(key, floats, name=name, severity=severity))
    with style.applied():
        figure, cells = style.grid(-(-len(shown) // _COLUMNS), _COLUMNS, side=1.25)
        for cell, (title, pixels) in zip(cells.flat, shown.items(), strict=False):
            cell.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            cell.set_title(title, fontsize=8, fontweight="normal", loc="center", pad=3)
    return figure


if __name__ == "__main__":
    sys.exit(main())
