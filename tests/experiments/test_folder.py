"""A run's folder belongs to one configuration, and only whole stages count."""

import json

import pytest

from experiments.storage import folder, records


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
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_configuration_is_reported(tmp_path):
    run = folder.start(tmp_path / "run", {}, {})
    (run.root / "config.json").write_text('{"identity"')
    with pytest.raises(ValueError, match=r"config.json cannot be read"):
        folder.start(tmp_path / "run", {}, {})


def test_rows_follow_the_order_of_the_stages_and_a_stage_replaces_its_own(tmp_path, rows):
    run = folder.start(tmp_path / "run", {}, {})
    for stage in ("fault", "clean", "clean"):
        folder.finish(run, stage, rows[stage], {"seconds": 1}, order=("clean", "fault"))
    assert list(run.rows()["stage"]) == ["clean"] * len(rows["clean"]) + ["fault"] * len(rows["fault"])


def test_a_stage_without_its_mark_is_not_finished(tmp_path, rows):
    run = folder.start(tmp_path / "run", {}, {})
    folder.finish(run, "clean", rows["clean"], {"seconds": 2.5}, order=("clean",))
    assert folder.finished(run, "clean") == {"seconds": 2.5}
    (run.root / "finished" / "clean.json").unlink()
    assert folder.finished(run, "clean") is None
    folder.finish(run, "fault", rows["fault"], {}, order=("clean", "fault"))
    assert set(run.rows()["stage"]) == {"fault"}, "rows of a stage that was cut short do not count"


def test_json_is_readable_and_nothing_is_left_beside_it(tmp_path):
    folder.write_json({"a": [1, 2]}, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, 2]}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_a_new_folder_has_no_rows(tmp_path):
    run = folder.start(tmp_path / "deep" / "run", {}, {})
    assert tuple(run.rows().columns) == records.COLUMNS
    assert run.faults().empty
