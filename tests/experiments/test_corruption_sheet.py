"""The figure of one image under every corruption, from the command line."""

import matplotlib.image
import pytest

from experiments import corruption_sheet


def test_draws_the_corruptions_named(cells, tmp_path, capsys):
    output = tmp_path / "sheet.png"
    names = "--corruptions=contrast,black_corner"
    assert corruption_sheet.main([f"--npz={cells}", names, "--severity=5", f"--output={output}"]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    pixels = matplotlib.image.imread(output)
    assert pixels.shape[1] > 2 * pixels.shape[0]
    assert pixels[..., :3].std() > 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --npz=FILE"),
        (["--image=999"], "image must be below 24"),
        (["--corruptions=fog_of_war"], "name must be one of"),
        (["extra"], "every option is written as"),
    ],
)
def test_refuses(cells, capsys, arguments, message):
    given = arguments if not arguments else [f"--npz={cells}", *arguments]
    assert corruption_sheet.main(given) == 2
    assert message in capsys.readouterr().err
