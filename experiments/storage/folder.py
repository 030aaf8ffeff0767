"""A run's folder: one configuration, the stages that are finished, and the files that each leaves.

    config.json            configuration, what its files and data hash to, versions, commit, device
    finished/STAGE.csv     rows of a finished stage; STAGE.json beside it, written last, says that it is finished
    rows.csv               the rows of all finished stages, made from those files
    checkpoints/           of the training        history.csv   its course, a line per epoch
    faults.csv             one row per fault trial; fault_parts/ holds those of an unfinished stage
    .lock                  held by the process that works on the folder
    attack_parts/          clean and per attack and radius, what became of every image; corruption_parts/ the same
    gallery/STAGE.npz      images for the gallery
    figures/, report.md    made from all of these

A stage that is killed leaves no mark, so the next call runs it again; nothing is ever half written.
"""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.settings import config, serial
from experiments.storage import records


class RunFolder(NamedTuple):
    """The files of one run; `root` is the folder."""

    root: pathlib.Path

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.root / "checkpoints"

    @property
    def figures(self) -> pathlib.Path:
        return self.root / "figures"

    @property
    def fault_parts(self) -> pathlib.Path:
        return self.root / "fault_parts"

    @property
    def attack_parts(self) -> pathlib.Path:
        return self.root / "attack_parts"

    @property
    def corruption_parts(self) -> pathlib.Path:
        return self.root / "corruption_parts"

    @property
    def gallery(self) -> pathlib.Path:
        return self.root / "gallery"

    @property
    def report(self) -> pathlib.Path:
        return self.root / "report.md"

    def rows(self) -> pd.DataFrame:
        """The rows of all finished stages, in the order of the stages.

        Raises:
          ValueError: a stage is marked as finished and its rows are gone.
        """
        done = [name for name in config.STAGES if finished(self, name) is not None]
        paths = [self.root / "finished" / f"{name}.csv" for name in done]
        for path in paths:
            if not path.is_file():
                mark = path.with_suffix(".json")
                raise ValueError(f"{path} is missing: remove {mark} too, to have the stage run again")
        return records.join(paths)

    def faults(self) -> pd.DataFrame:
        """One row per fault trial; empty where the stage has not finished."""
        return records.read_trials(self.root / "faults.csv")

    def about(self) -> dict[str, Any]:
        """What `config.json` holds.

        Raises:
          ValueError: the folder holds no run, or the file cannot be read.
        """
        return _read_json(self.root / "config.json", missing=f"{self.root} holds no run: it has no config.json")


@contextlib.contextmanager
def lock(root: str | os.PathLike) -> Iterator[None]:
    """Keeps other processes out of a run's folder, which is made where it is missing, until the block is left.

    The lock is the operating system's, so that it goes with the process, however that ends.

    Args:
      root: the folder.

    Raises:
      ValueError: another process works on it, or it holds files that are not a run's.
    """
    root = pathlib.Path(root)
    _refuse_other_files(root)
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{root} is in use by another process: wait until it has finished, or choose another --output"
            ) from None
        yield


def start(root: str | os.PathLike, identity: Mapping[str, Any], about: Mapping[str, Any]) -> RunFolder:
    """Opens a run's folder, or makes it.

    Args:
      root: the folder.
      identity: all that decides the run's numbers, as JSON; a folder belongs to one of them for good.
      about: what else `config.json` is to say, written when the folder is made.

    Raises:
      ValueError: the folder holds a run with another configuration (the message says what differs), or other files.
    """
    folder = RunFolder(pathlib.Path(root))
    if (folder.root / "config.json").is_file():
        check(folder, identity)
        write_rows(folder)
        return folder
    _refuse_other_files(folder.root)
    folder.root.mkdir(parents=True, exist_ok=True)
    write_json({"identity": dict(identity), **about}, folder.root / "config.json")
    return folder


def check(folder: RunFolder, identity: Mapping[str, Any]) -> None:
    """Refuses the folder of a run with another configuration, and one that holds no run, in a ValueError."""
    differs = serial.difference(folder.about()["identity"], dict(identity))
    if differs:
        raise ValueError(
            f"{folder.root} holds a run with another configuration ({'; '.join(differs)}): choose another --output, "
            "or give the configuration it was made with"
        )


def finished(folder: RunFolder, stage: str) -> dict[str, Any] | None:
    """What was noted when the stage finished, or None if it has not."""
    path = folder.root / "finished" / f"{stage}.json"
    return _read_json(path, missing="") if path.is_file() else None


def finish(folder: RunFolder, stage: str, rows: pd.DataFrame, note: Mapping[str, Any]) -> None:
    """Keeps a stage's rows and marks it as finished.

    Args:
      folder: of the run.
      stage: its name, of `config.STAGES`.
      rows: with the columns `records.COLUMNS`.
      note: what `finished` shall return.
    """
    directory = folder.root / "finished"
    directory.mkdir(exist_ok=True)
    records.write(rows, directory / f"{stage}.csv")
    write_json(dict(note), directory / f"{stage}.json")
    write_rows(folder)


def write_rows(folder: RunFolder) -> None:
    """Makes `rows.csv` from the rows of the finished stages: a kill may have come between a stage's mark and it."""
    records.write(folder.rows(), folder.root / "rows.csv")


def write_json(values: Mapping[str, Any], path: pathlib.Path) -> None:
    """Writes JSON in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(temporary, path)


def write_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Writes an npz file in one step."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, path)


def _refuse_other_files(root: pathlib.Path) -> None:
    # Files with a leading dot are a lock, or what a run that was killed was writing.
    holds = root.is_dir() and any(not path.name.startswith(".") for path in root.iterdir())
    if holds and not (root / "config.json").is_file():
        raise ValueError(f"{root} is not empty and holds no run: choose another --output")


def _read_json(path: pathlib.Path, *, missing: str) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(missing)
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} cannot be read ({error}): it is not as this program wrote it") from error
