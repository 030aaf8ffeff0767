"""Brings the shards of a campaign together: the parts of several runs' folders in one new folder.

    python -m experiments.run ... --shard=1/2 --output=runs/part-1
    python -m experiments.run ... --shard=2/2 --output=runs/part-2
    python -m experiments.merge --output=runs/whole runs/part-1 runs/part-2
    python -m experiments.run ... --output=runs/whole        (finishes and reports; what is missing runs)

Nothing is computed. Folders of different runs are refused. Exit codes as of `experiments.run`.
"""

import os
import pathlib
import shutil
import sys
from collections.abc import Sequence

from absl import flags

from experiments import commands
from experiments.settings import serial
from experiments.storage import folder, parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Args:
      arguments: without the program's name; those of the process by default.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "folder for all parts; must not hold a run", flag_values=values)

    def body(sources: list[str]) -> list[str]:
        if not values.output or not sources:
            raise ValueError("give --output=FOLDER and the folders of the shards: runs/part-1 runs/part-2 ...")
        return _merge(pathlib.Path(values.output), [pathlib.Path(source) for source in sources])

    return commands.call("experiments.merge", __doc__, values, body, arguments)


def _merge(output: pathlib.Path, sources: list[pathlib.Path]) -> list[str]:
    about = folder.RunFolder(sources[0]).about()
    campaigns = _campaigns(sources, about)
    with folder.lock(output):
        if (output / "config.json").is_file():
            raise ValueError(f"{output} holds a run: choose another --output")
        try:
            lines = [_copy(output, name, found) for name, found in campaigns.items()]
        except BaseException:
            shutil.rmtree(folder.RunFolder(output).fault_parts, ignore_errors=True)  # the command can be given again
            raise
        folder.write_json(about, output / "config.json")
    return [*lines, f"finish and report: the shards' command with --output={output} and without --shard"]


def _campaigns(sources: list[pathlib.Path], about: dict) -> dict[str, list[pathlib.Path]]:
    """The folders of every campaign, by name; all must be of one run and one campaign."""
    found: dict[str, list[pathlib.Path]] = {}
    for source in sources:
        if folder.RunFolder(source).checkpoints.exists():
            raise ValueError(f"{source} trained its own weights: pack them (experiments.pack) and give all --init_from")
        differs = serial.difference(about["identity"], folder.RunFolder(source).about()["identity"])
        if differs:
            raise ValueError(f"{source} is of another run than {sources[0]} ({'; '.join(differs)})")
        for path in sorted(folder.RunFolder(source).fault_parts.glob("campaign_*")):
            others = found.setdefault(path.name, [])
            if others:
                differs = serial.difference(parts.read_identity(others[0]), parts.read_identity(path))
                if differs:
                    raise ValueError(f"{path} is of another campaign than {others[0]} ({'; '.join(differs)})")
            others.append(path)
    if not found:
        raise ValueError(f"none of these folders holds a campaign's trials: {', '.join(map(str, sources))}")
    return found


def _copy(output: pathlib.Path, name: str, found: list[pathlib.Path]) -> str:
    target = folder.RunFolder(output).fault_parts / name
    target.mkdir(parents=True, exist_ok=True)
    identity = parts.read_identity(found[0])
    count, files = 0, 0
    for source in found:
        for path in sorted(source.glob("trials_*.parquet")):
            trials = parts.read(path, parts.digest(identity))  # a part that cannot be read is named
            if (target / path.name).is_file():
                if path.read_bytes() != (target / path.name).read_bytes():
                    raise ValueError(f"{path} has other trials than the same part of another shard: keep one of them")
            else:
                temporary = target / f".{path.name}.{os.getpid()}"
                shutil.copyfile(path, temporary)
                os.replace(temporary, target / path.name)
                count, files = count + trials.count, files + 1
    folder.write_json(identity, target / "campaign.json")
    return f"{name}: {count:,} trials in {files} parts from {len(found)} folders"


if __name__ == "__main__":
    sys.exit(main())
