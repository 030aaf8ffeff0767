"""Trials on disk: bit for bit there and back, whole or not at all, of one campaign only, and safe from SIGKILL."""

import errno
import json
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from experiments import merge
from experiments.storage import parts
from threats import campaigns, faults
from threats.campaigns import trials

TABLE = faults.SiteTable(
    tuple(
        faults.Site(path=path, kind="weight", collection="params", shape=(40,), dtype="float32")
        for path in ("a/kernel", "b/A_log")
    )
)
IDENTITY = {"weights": "abc", "spec": {"trials": 4}}
SCRIPT = pathlib.Path(__file__).parent / "killed_campaign.py"


def _trials(start=0, count=4) -> campaigns.Trials:
    rng = np.random.default_rng(start)
    shape = (count, 3)
    drawn = faults.Faults(*(rng.integers(0, high, shape) for high in (2, 40, 32, 3)))
    drawn = drawn._replace(site=np.where(rng.random(shape) < 0.3, -1, drawn.site))
    bits = rng.integers(0, 2**32, (2, *shape), dtype=np.uint32).view(np.float32)  # NaN payloads and subnormals too
    bits[0, 0] = np.array([0x7FC00001, 0xFF800000, 0x00000001], np.uint32).view(np.float32)
    figures = rng.random((5, count), np.float32)
    figures[4, 0] = np.nan
    numbers = np.arange(start, start + count)
    return trials.make(numbers, numbers % 2, numbers - 1, drawn, faults.TrialResult(*figures, *bits))


def _bits(some):
    return jax.tree.map(lambda x: x.view(np.uint32) if x.dtype == np.float32 else x, some)


def _assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, _bits(a), _bits(b))


def test_trials_come_back_bit_for_bit(tmp_path):
    store = parts.PartFolder(tmp_path / "new" / "folder", IDENTITY, TABLE)
    assert store.load(0, 4) is None
    first, second = _trials(), _trials(4, 2)
    store.save(second)
    store.save(first)
    again = parts.PartFolder(store.root, IDENTITY, TABLE)
    _assert_same(again.load(0, 4), first)
    _assert_same(again.load_all(), trials.join([first, second]))


def test_readers_find_names_in_the_rows(tmp_path):
    store, some = parts.PartFolder(tmp_path, IDENTITY, TABLE), _trials()
    store.save(some)
    frame = pd.read_parquet(tmp_path / parts.name(0, 4))
    for row, sites, found in zip(frame.itertuples(), some.faults.site, some.faults.bit, strict=True):
        used = sites >= 0
        assert list(row.path) == [TABLE[site].path for site in sites[used]]
        assert list(row.layer) == [TABLE[site].layer for site in sites[used]]
        assert list(row.field) == [faults.field_of(int(bit), "float32") for bit in found[used]]


def test_another_campaign_is_refused_with_what_differs(tmp_path):
    parts.PartFolder(tmp_path, IDENTITY, TABLE)
    with pytest.raises(ValueError, match=r"another campaign \(weights: abc -> xyz; spec.trials: 4 -> 8\): choose"):
        parts.PartFolder(tmp_path, {"weights": "xyz", "spec": {"trials": 8}}, TABLE)


def test_parts_that_cannot_be_read_or_are_of_others_are_named(tmp_path):
    ours = parts.PartFolder(tmp_path / "ours", IDENTITY, TABLE)
    others = parts.PartFolder(tmp_path / "others", {"weights": "xyz"}, TABLE)
    others.save(_trials())
    part = ours.root / parts.name(0, 4)
    part.write_bytes((others.root / part.name).read_bytes())
    with pytest.raises(ValueError, match=f"{part.name} belongs to another campaign: move it away"):
        ours.load(0, 4)
    for broken in (b"", b"PAR1", (others.root / part.name).read_bytes()[:-200]):
        part.write_bytes(broken)
        with pytest.raises(ValueError, match=f"{part.name} cannot be read .*: remove it"):
            ours.load(0, 4)
    (ours.root / "campaign.json").write_text("{")
    with pytest.raises(ValueError, match=r"campaign.json cannot be read"):
        parts.PartFolder(ours.root, IDENTITY, TABLE)


def test_a_full_disk_leaves_no_half_of_a_part(tmp_path, monkeypatch):
    store = parts.PartFolder(tmp_path, IDENTITY, TABLE)
    store.save(_trials())

    def full(table, path, **options):
        pathlib.Path(path).write_bytes(b"PAR1 and a little")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parquet, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        store.save(_trials(4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["campaign.json", parts.name(0, 4)]


def _start(folder, count):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), str(count)], stdout=subprocess.PIPE, text=True, cwd=SCRIPT.parents[2]
    )


def test_a_campaign_that_is_killed_ends_with_the_same_trials(tmp_path):
    """SIGKILL before the first part, after one, after several, and while one is being written."""
    whole = _start(tmp_path / "whole", 400)
    folder = tmp_path / "killed"

    def when_parts(count):
        return lambda: len(list(folder.glob("trials_*.parquet"))) >= count

    moments = [lambda: (folder / "campaign.json").is_file(), when_parts(1), when_parts(5)]
    moments.append(lambda: any(folder.glob(".trials_*")) or when_parts(11)())
    for moment in moments:
        with _start(folder, 400) as child:
            assert child.stdout.readline() == "ready\n"
            until = time.monotonic() + 60
            while not moment() and child.poll() is None and time.monotonic() < until:
                time.sleep(0.0005)
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
    last = _start(folder, 400)
    assert last.communicate()[0] == "ready\n400\n"
    assert whole.communicate()[0] == "ready\n400\n"
    identity = parts.read_identity(folder)
    ours, uninterrupted = (parts.PartFolder(tmp_path / name, identity, TABLE) for name in ("killed", "whole"))
    _assert_same(ours.load_all(), uninterrupted.load_all())
    assert ours.load_all().number.tolist() == list(range(400))


def _shard(folder, identity, *starts):
    (folder / "fault_parts").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"identity": {"seed": 0}}))
    store = parts.PartFolder(folder / "fault_parts" / "campaign_float32", identity, TABLE)
    for start in starts:
        store.save(_trials(start))
    return store


def test_shards_merge_into_one_folder(tmp_path, capsys):
    _shard(tmp_path / "one", IDENTITY, 0, 8)
    _shard(tmp_path / "two", IDENTITY, 0, 4)
    arguments = [f"--output={tmp_path / 'whole'}", str(tmp_path / "one"), str(tmp_path / "two")]
    assert merge.main(arguments) == 0
    assert "12 trials in 3 parts from 2 folders" in capsys.readouterr().out
    merged = parts.PartFolder(tmp_path / "whole" / "fault_parts" / "campaign_float32", IDENTITY, TABLE)
    _assert_same(merged.load_all(), trials.join([_trials(0), _trials(4), _trials(8)]))
    assert merge.main(arguments) == 2
    assert "holds a run: choose another --output" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["campaign", "run", "nothing", "broken", "no_output", "trained", "differs"])
def test_what_cannot_be_merged_is_refused(tmp_path, capsys, case):
    _shard(tmp_path / "one", IDENTITY, 0)
    two = _shard(tmp_path / "two", {"weights": "xyz"} if case == "campaign" else IDENTITY, 4)
    if case == "run":
        (tmp_path / "two" / "config.json").write_text(json.dumps({"identity": {"seed": 1}}))
    if case == "broken":
        (two.root / parts.name(4, 8)).write_bytes(b"")
    if case == "trained":
        (tmp_path / "two" / "checkpoints").mkdir()
    if case == "differs":
        other = _trials(4)
        two.save(other._replace(number=other.number - 4))
    sources = ["three"] if case == "nothing" else ["one", "two"]
    output = [] if case == "no_output" else [f"--output={tmp_path / 'whole'}"]
    assert merge.main([*output, *(str(tmp_path / name) for name in sources)]) == 2
    line = {
        "campaign": "another campaign",
        "run": "another run than",
        "nothing": "holds no run",
        "broken": "cannot be read",
        "no_output": "give --output",
        "trained": "trained its own weights",
        "differs": "has other trials than the same part",
    }
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert line[case] in error
    assert not [path for path in tmp_path.glob("whole/*") if path.name != ".lock"], "the same output can be tried again"
