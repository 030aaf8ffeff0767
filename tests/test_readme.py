"""The Python examples of the README and of the pages beside it run as they stand."""

import pathlib
import re

import jax
import pytest

_ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("page", "prints"),
    [
        ("README.md", ("still right:", "changed decisions:")),
        ("docs/campaigns.md", ("decisions that change:", "exponent Interval", "in int8 less in float32:")),
        ("docs/attacks.md", ("Interval(value=", "pass: gradients", "broken: ", "at 0.05: Interval(value=1.0")),
        ("docs/corruptions.md", ("relative mCE: Interval", "rBE: Interval")),
        ("docs/occlusion.md", ("pixels changed: 0.48979", "largest change: 0.")),
    ],
)
def test_the_examples_run(capsys, page, prints):
    examples = re.findall(r"```python\n(.*?)```", (_ROOT / page).read_text(), flags=re.DOTALL)
    assert examples
    for example in examples:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            exec(compile(example, page, "exec"), {"__name__": page})
    printed = capsys.readouterr().out
    assert all(line in printed for line in prints)
