"""The README's Python examples run as they stand."""

import pathlib
import re

import jax

_README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_examples_run(capsys):
    examples = re.findall(r"```python\n(.*?)```", _README.read_text(), flags=re.DOTALL)
    assert examples
    for example in examples:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            exec(compile(example, str(_README), "exec"), {})
    printed = capsys.readouterr().out
    assert "still right:" in printed
    assert "changed decisions:" in printed
