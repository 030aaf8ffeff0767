"""The trials of a campaign on disk: Parquet part files, each written whole, under a fingerprint that they all carry.

    campaign.json                      what decides every trial: weights, data, program, spec, key, versions
    trials_000000000_000000032.parquet trials 0 .. 31; one row per trial, a list entry per hit

A part is written beside its place and renamed, so that a run which is killed leaves whole parts only; the next run
reads them and goes on. A part of another campaign, or one that cannot be read, is named and nothing is overwritten.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from experiments.settings import serial
from experiments.storage import folder
from threats import campaigns, faults
from threats.campaigns import trials

_DIGEST = b"campaign"
_LISTS = {"site": pa.int32(), "element": pa.int32(), "bit": pa.int32(), "action": pa.int32()}
_VALUES = ("before", "after")
_FIGURES = ("accuracy", "loss", "sdc", "nonfinite", "auc")


class PartFolder:
    """A `campaigns.Store` of Parquet files; see the module's text.

    Args:
      root: the folder; made where it is missing.
      identity: all that decides the trials, as JSON.
      table: the sites that the faults point into, whose names the rows repeat for readers.

    Raises:
      ValueError: the folder holds trials of another campaign; the message says what differs.
    """

    def __init__(self, root: str | os.PathLike, identity: Mapping[str, Any], table: faults.SiteTable):
        self.root, self._table = pathlib.Path(root), table
        self._digest = digest(identity)
        self.root.mkdir(parents=True, exist_ok=True)
        about = self.root / "campaign.json"
        if about.is_file():
            differs = serial.difference(read_identity(self.root), json.loads(json.dumps(identity)))
            if differs:
                raise ValueError(
                    f"{root} holds trials of another campaign ({'; '.join(differs)}): choose another --output, or give "
                    "what it was made with"
                )
        else:
            folder.write_json(identity, about)

    def load(self, start: int, stop: int) -> campaigns.Trials | None:
        """The trials start .. stop - 1, or None where they have not been kept.

        Raises:
          ValueError: the file cannot be read, or is of another campaign.
        """
        path = self.root / name(start, stop)
        return read(path, self._digest) if path.is_file() else None

    def load_all(self) -> campaigns.Trials:
        """All trials that have been kept, in order.

        Raises:
          ValueError: there are none, or as in `load`.
        """
        return read_all(self.root, self._digest)

    def save(self, some: campaigns.Trials) -> None:
        """Writes a part in one step."""
        path = self.root / name(int(some.number[0]), int(some.number[-1]) + 1)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        table = _to_arrow(some, self._table).replace_schema_metadata({_DIGEST: self._digest.encode()})
        try:
            # Values are told apart by their bits: a dictionary could join NaNs that differ.
            parquet.write_table(table, temporary, use_dictionary=["path", "layer", "field"], compression="zstd")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def name(start: int, stop: int) -> str:
    """The name of the part with trials start .. stop - 1."""
    return f"trials_{start:09d}_{stop:09d}.parquet"


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def read_identity(root: pathlib.Path) -> dict[str, Any]:
    """What `campaign.json` says.

    Raises:
      ValueError: there is none, or it cannot be read.
    """
    path = root / "campaign.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{root} holds no campaign: it has no campaign.json") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} cannot be read ({error}): it is not as this program wrote it") from error


def read(path: pathlib.Path, expected: str) -> campaigns.Trials:
    """The trials of one part.

    Args:
      path: of the file.
      expected: digest of the campaign that it must belong to.

    Raises:
      ValueError: the file cannot be read, or is of another campaign.
    """
    try:
        table = parquet.read_table(path, partitioning=None)
        found = (table.schema.metadata or {}).get(_DIGEST, b"").decode()
        made = _from_arrow(table) if found == expected else None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read ({reason}): remove it, and its trials run again") from error
    if made is None:
        raise ValueError(f"{path} belongs to another campaign: move it away, and its trials run again")
    return made


def read_all(root: pathlib.Path, expected: str) -> campaigns.Trials:
    """The trials of all parts in a folder, in order; arguments and errors as of `read`, also where there are none."""
    paths = sorted(root.glob("trials_*.parquet"))
    if not paths:
        raise ValueError(f"{root} holds no trials: run the campaign first")
    return trials.join([read(path, expected) for path in paths])


def _to_arrow(some: campaigns.Trials, sites: faults.SiteTable) -> pa.Table:
    used = some.faults.site >= 0
    paths, layers = (np.array([getattr(site, what) for site in sites], object) for what in ("path", "layer"))
    fields = [
        [faults.field_of(int(bit), sites[int(site)].dtype) for site, bit in zip(*row, strict=True)]
        for row in zip(some.faults.site, np.where(used, some.faults.bit, 0), strict=True)
    ]
    columns = {"trial": some.number, "stratum": some.stratum, "image": some.image}
    for what, names in (("path", paths), ("layer", layers)):
        columns[what] = pa.array([names[row[on]].tolist() for row, on in zip(some.faults.site, used, strict=True)])
    columns["field"] = pa.array([np.array(row)[on].tolist() for row, on in zip(fields, used, strict=True)])
    for what, kind in _LISTS.items():
        columns[what] = pa.array(list(getattr(some.faults, what)), pa.list_(kind))
    for what in _VALUES:
        columns[what] = pa.array(list(getattr(some.result, what)), pa.list_(pa.float32()))
    return pa.table({**columns, **{what: getattr(some.result, what) for what in _FIGURES}})


def _from_arrow(table: pa.Table) -> campaigns.Trials:
    def lists(what: str) -> np.ndarray:
        column = table[what].combine_chunks()
        return column.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, -1)

    def plain(what: str) -> np.ndarray:
        return table[what].to_numpy()

    drawn = faults.Faults(**{what: lists(what) for what in _LISTS})
    figures = {what: plain(what) for what in _FIGURES}
    result = faults.TrialResult(**figures, **{what: lists(what) for what in _VALUES})
    return trials.make(plain("trial"), plain("stratum"), plain("image"), drawn, result)
