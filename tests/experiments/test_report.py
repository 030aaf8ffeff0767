"""Figures and reports come from rows alone, and say what they rest on."""

import re

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from experiments import report
from experiments.reporting import by_class, by_fill, plots, sections, tables
from experiments.storage import folder, records
from threats import corruptions, occlusion


def test_every_figure_is_drawn_from_rows_alone(finished):
    material = plots.Material(finished.rows(), finished.faults(), 0.55, finished.gallery)
    drawn = plots.draw_all(material, finished.figures)
    assert set(drawn) == set(plots.FIGURES) - {"fault_layers_activations"}, "no activation was swept layer by layer"
    for name, path in drawn.items():
        pixels = matplotlib.image.imread(path)
        assert min(pixels.shape[:2]) > 150, name
        assert np.std(pixels[..., :3]) > 0.02, f"{name} is blank"


def test_a_figure_without_rows_is_not_drawn(finished, rows, tmp_path):
    material = plots.Material(rows["occlusion"], records.read(tmp_path / "none"), None, tmp_path / "no gallery")
    assert list(plots.draw_all(material, tmp_path / "figures")) == ["occlusion"]


def test_a_curve_shows_its_values(rows, faults, tmp_path):
    figure = plots.occlusion(plots.Material(rows["occlusion"], faults, 0.55, tmp_path))
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert set(lines) == {"random", "salient", "most frequent class (55.0 %)"}
    np.testing.assert_allclose(lines["random"].get_xdata(), [0.0, 0.5, 0.9])
    np.testing.assert_allclose(lines["random"].get_ydata(), [80.0, 55.0, 35.0])


def test_every_fill_has_its_panel_and_its_table(rows, faults, tmp_path):
    black = rows["occlusion"]
    both = pd.concat([black, black.assign(method=black["method"] + "/noise", value=black["value"] / 2)])
    figure = plots.occlusion(plots.Material(both, faults, None, tmp_path))
    assert [axis.get_title() for axis in figure.axes] == ["filled with black", "filled with noise"]
    for axis, start in zip(figure.axes, (80.0, 40.0), strict=True):
        lines = {line.get_label(): line.get_ydata()[0] for line in axis.get_lines()}
        assert lines == {"random": pytest.approx(start), "salient": pytest.approx(start)}
    text = sections._occlusion(both, {})
    assert text.index("filled with black:") < text.index("80.0") < text.index("filled with noise:") < text.index("40.0")
    assert "mean over draws" in text
    assert sections.SECTIONS[0](both, {}).count("half of the patches dropped") == 2
    noise = both[both["method"].str.endswith("noise")]
    assert "half of the patches dropped, salient, filled with noise" in sections.SECTIONS[0](noise, {})
    assert "filled" not in sections._occlusion(black, {})


def test_fills_have_a_title_each():
    assert list(by_fill.TITLES) == list(occlusion.FILLS)


def test_classes_are_shown_under_the_strongest_attack_where_it_halves_the_accuracy(rows):
    name, table = by_class.recall(rows["adversarial"], "linf")
    assert name == "pgd"
    assert "| a | 100.0 [97.5, 100.0] | 94.7 [89.8, 97.3] |" in table
    assert by_class.recall(rows["adversarial"], "l2") == ("pgd_l2", "")
    figure = by_class.confusion(rows["adversarial"])
    maps = {axis.get_title(): axis.get_images()[0].get_array() for axis in figure.axes if axis.get_images()}
    assert list(maps) == ["Clean images", "PGD, L-inf, epsilon 8/255"], "0.8 / (1 + 1) is not yet less than half"
    np.testing.assert_allclose(maps["Clean images"], [[100, 0], [10, 90]])
    np.testing.assert_allclose(maps["PGD, L-inf, epsilon 8/255"], [[20, 80], [10, 90]])


def test_many_corruptions_are_drawn_by_kind_and_the_brief_names_the_worst(rows, faults, tmp_path):
    many = pd.concat(
        [rows["corruption"].assign(method=name, value=0.9 - i / 100) for i, name in enumerate(corruptions.CORRUPTIONS)]
    )
    figure = plots.corruption(plots.Material(many, faults, 0.55, tmp_path))
    assert [axis.get_title() for axis in figure.axes] == list(corruptions.KINDS)
    drawn = [line.get_label() for axis in figure.axes for line in axis.get_lines() if "class" not in line.get_label()]
    assert sorted(drawn) == sorted(name.replace("_", " ") for name in corruptions.CORRUPTIONS)
    assert max(len(axis.get_lines()) for axis in figure.axes) - 1 <= plots.style.COLOURS, "no two alike"
    brief = sections.SECTIONS[0](many, {})
    assert brief.count("severity 5") == 5
    assert "characters, severity 5, of 29 corruptions among the worst 5" in brief
    assert "gaussian noise" not in brief


def test_the_heat_map_has_a_cell_for_every_layer_and_field(faults):
    figure = plots.fault_plots.layers(faults, "weights")
    maps = [axis.get_images()[0].get_array() for axis in figure.axes if axis.get_images()][:3]
    assert [int(np.isfinite(cells.filled(np.nan)).sum()) for cells in maps] == [5, 5, 5]
    trials = records.select(faults, mode="layerwise", layer="head", field="exponent")
    expected = 100 * (trials["accuracy_before"] - trials["accuracy"]).mean()
    assert expected > 1
    assert np.isclose(maps[1].filled(-1), expected).sum() == 1


def test_the_report_holds_every_figure_and_the_intervals(finished):
    text = report.write(finished).read_text()
    for path in finished.figures.iterdir():
        assert f"](figures/{path.name})" in text, path.name
    for link in re.findall(r"\]\((.*?)\)", text):
        assert (finished.root / link).is_file(), link
    clean = finished.rows().query("stage == 'clean' and method == 'test' and metric == 'accuracy'").iloc[0]
    assert records.interval_text(clean.value, clean.low, clean.high, percent=True) in text
    for expected in (
        "0.910 [0.880, 0.930] | 200",
        "| FGSM |",
        "40.0 [30.0, 50.0] | 20",
        "right in 55.0 %",
        "commit abc",
    ):
        assert expected in text, expected


def test_the_report_names_the_epoch_whose_weights_are_measured_and_the_figure_that_chose_it(finished):
    text = report.write(finished).read_text()
    assert "those of epoch 1 of 2, chosen by the validation AUC;" in text, "epoch 2 has the larger accuracy"
    assert "| AUC | 0.870 [0.820, 0.920] | 200 |" in text


def test_the_report_names_the_scan_and_how_fgsm_is_counted(finished):
    text = report.write(finished).read_text()
    assert "| scan method | sequential |" in text
    assert "FGSM takes one step from the clean image" in text


def test_a_report_is_made_of_the_stages_own_rows(finished):
    (finished.root / "rows.csv").unlink()
    report.write(finished)
    assert set(records.read(finished.root / "rows.csv")["stage"]) >= {"train", "fault"}


def test_an_own_file_is_not_called_by_an_official_name(finished):
    text = report.write(finished).read_text()
    assert "A file of the user's own" in text
    assert "Licence: not stated" in text


def test_a_report_can_be_drawn_again_by_its_folder_alone(finished, capsys):
    assert report.main([str(finished.root)]) == 0
    assert capsys.readouterr().out == f"{finished.report}\n"
    assert finished.report.is_file()


def test_drawing_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} holds no run: it has no config.json\n"
    assert report.main([]) == 2


def test_stages_that_have_not_run_leave_no_heading(finished):
    (finished.root / "finished" / "fault.json").unlink()
    (finished.root / "faults.csv").unlink()
    text = report.write(folder.RunFolder(finished.root)).read_text()
    assert "## Flipped bits" not in text
    assert "## Occlusion" in text


@pytest.mark.parametrize(
    ("name", "prose"), [("pgd", "PGD"), ("mi_fgsm_l2", "MI-FGSM"), ("gaussian_noise", "gaussian noise"), ("auc", "AUC")]
)
def test_names_are_printed_as_prose(name, prose):
    assert tables.words(name) == prose
