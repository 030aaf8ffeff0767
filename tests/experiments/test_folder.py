"""A run's folder belongs to one configuration, and only whole stages count."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from experiments.storage import folder, provenance, records

_HOLD = """
import sys
from experiments.storage import folder
with folder.lock(sys.argv[1]):
    print("held", flush=True)
    input()
"""


def test_the_same_configuration_opens_the_folder_again(tmp_path):
    for _ in range(2):
        run = folder.start(tmp_path / "run", {"seed": 0, "fault": {"trials": 4}}, {"made": "here"})
    assert run.about() == {"identity": {"seed": 0, "fault": {"trials": 4}}, "made": "here"}


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    folder.start(tmp_path / "run", {"seed": 0, "fault": {"trials": 4}}, {})
    with pytest.raises(ValueError, match=r"another configuration \(fault.trials: 4 -> 5; init: None -> x\): choose"):
        folder.start(tmp_path / "run", {"seed": 0, "fault": {"trials": 5}, "init": "x"}, {})


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        folder.start(tmp_path, {}, {})
    with pytest.raises(ValueError, match="is not empty and holds no run"), folder.lock(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_configuration_is_reported(tmp_path):
    run = folder.start(tmp_path / "run", {}, {})
    (run.root / "config.json").write_text('{"identity"')
    with pytest.raises(ValueError, match=r"config.json cannot be read"):
        folder.start(tmp_path / "run", {}, {})


def test_rows_follow_the_order_of_the_stages_and_a_stage_replaces_its_own(tmp_path, rows):
    run = folder.start(tmp_path / "run", {}, {})
    for stage in ("fault", "clean", "clean"):
        folder.finish(run, stage, rows[stage], {"seconds": 1})
    assert list(run.rows()["stage"]) == ["clean"] * len(rows["clean"]) + ["fault"] * len(rows["fault"])


def test_a_stage_without_its_mark_is_not_finished(tmp_path, rows):
    run = folder.start(tmp_path / "run", {}, {})
    folder.finish(run, "clean", rows["clean"], {"seconds": 2.5})
    assert folder.finished(run, "clean") == {"seconds": 2.5}
    (run.root / "finished" / "clean.json").unlink()
    assert folder.finished(run, "clean") is None
    folder.finish(run, "fault", rows["fault"], {})
    assert set(run.rows()["stage"]) == {"fault"}, "rows of a stage that was cut short do not count"


def test_rows_are_whole_after_a_kill_between_a_stage_s_mark_and_the_file_of_all_rows(tmp_path, rows, monkeypatch):
    run = folder.start(tmp_path / "run", {}, {})
    folder.finish(run, "clean", rows["clean"], {})
    with monkeypatch.context() as killed:
        killed.setattr(folder, "write_rows", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            folder.finish(run, "occlusion", rows["occlusion"], {})
    expected = pd.concat([rows["clean"], rows["occlusion"]], ignore_index=True)
    pd.testing.assert_frame_equal(run.rows(), expected)
    assert set(records.read(run.root / "rows.csv")["stage"]) == {"clean"}
    folder.start(run.root, {}, {})
    pd.testing.assert_frame_equal(records.read(run.root / "rows.csv"), expected)


def test_a_mark_without_its_rows_is_reported(tmp_path, rows):
    run = folder.start(tmp_path / "run", {}, {})
    folder.finish(run, "clean", rows["clean"], {})
    (run.root / "finished" / "clean.csv").unlink()
    with pytest.raises(ValueError, match=r"clean.csv is missing: remove .*clean.json too"):
        run.rows()


def test_one_process_at_a_time_works_on_a_folder(tmp_path):
    root = tmp_path / "run"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(root)], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"run is in use by another process: wait"), folder.lock(root):
            pass
        other.kill()
    with folder.lock(root):
        folder.start(root, {}, {})


def test_what_a_killed_run_was_writing_does_not_make_a_folder_somebody_else_s(tmp_path):
    (tmp_path / ".config.json.123").write_text("{")
    with folder.lock(tmp_path):
        assert folder.start(tmp_path, {"seed": 1}, {}).about() == {"identity": {"seed": 1}}


def test_json_is_readable_and_nothing_is_left_beside_it(tmp_path):
    folder.write_json({"a": [1, 2]}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, 2]}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_new_folder_has_no_rows(tmp_path):
    run = folder.start(tmp_path / "deep" / "run", {}, {})
    assert tuple(run.rows().columns) == records.COLUMNS
    assert run.faults().empty


def test_the_commit_is_that_of_the_first_look(monkeypatch):
    """A checkout that moves under a running program is not what the program was read from."""
    heads = iter(["first", "", "second", ""])
    monkeypatch.setattr(provenance, "_git", lambda root, *arguments: next(heads))
    provenance.commit.cache_clear()
    try:
        assert provenance.commit() == provenance.commit() != "second"
    finally:
        provenance.commit.cache_clear()
