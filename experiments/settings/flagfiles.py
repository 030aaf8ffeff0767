"""Flag files, read into the command line where they stand, so that later flags override theirs.

A flag file holds one flag per line; empty lines and lines that begin with `#` or `//` are passed over, and it may name
further flag files. A bare name such as `bloodmnist.flags` is looked for in the current directory, then among the files
that come with the package, so that it is found from anywhere.
"""

import pathlib
from collections.abc import Sequence

DIRECTORY = pathlib.Path(__file__).parents[1] / "flags"


def expand(arguments: Sequence[str], *, beside: pathlib.Path | None = None) -> list[str]:
    """The arguments with each `--flagfile=NAME` or `--flagfile NAME` replaced by what the file holds.

    Args:
      arguments: without the program's name.
      beside: directory in which names are looked for first, that of the file being read.

    Raises:
      FileNotFoundError: there is no such flag file; the message lists those that come with the package.
      ValueError: a line is no flag, a name is missing, or a file reads itself.
    """
    return _expand(list(arguments), beside, ())


def find(name: str, *, beside: pathlib.Path | None = None) -> pathlib.Path:
    """The flag file of that name: beside the file that names it, in the current directory, or in the package's."""
    for folder in (beside, pathlib.Path(), DIRECTORY):
        if folder is not None and (folder / name).expanduser().is_file():
            return (folder / name).expanduser()
    known = ", ".join(sorted(path.name for path in DIRECTORY.glob("*.flags")))
    raise FileNotFoundError(f"there is no flag file {name!r} here nor among the package's own: {known}")


def _expand(arguments: list[str], beside: pathlib.Path | None, reading: tuple[pathlib.Path, ...]) -> list[str]:
    expanded = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, name = argument.partition("=")
        if flag.lstrip("-") != "flagfile" or not flag.startswith("-"):
            expanded.append(argument)
            continue
        name = name if equals else next(rest, "")
        if not name:
            raise ValueError("--flagfile must be followed by the name of a flag file, such as bloodmnist.flags")
        path = find(name, beside=beside).resolve()
        if path in reading:
            raise ValueError(f"flag file {path.name} reads itself: {' -> '.join(p.name for p in (*reading, path))}")
        expanded += _expand(_lines(path), path.parent, (*reading, path))
    return expanded


def _lines(path: pathlib.Path) -> list[str]:
    flags = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        if not line.startswith("--") or line == "--":
            raise ValueError(f"{path.name} line {number}: every line must be a flag such as --epochs=10, got {line!r}")
        if " " in line.partition("=")[0]:
            raise ValueError(f"{path.name} line {number}: write --flag=value, got {line!r}")
        flags.append(line)
    return flags
