"""Names of layers in two: which block of the network, and which part of it."""

import re

# `stages_2/block_1/ssm/A_log` is the part `ssm/A_log` of block 2.1; `stages_2/merge/norm` belongs to no block.
_BLOCK = re.compile(r"((?:stages?_?\d+/)?(?:blocks?|layers?)_?\d+/)?(.+)")


def split(layer: str) -> tuple[str, str]:
    """The block, `2.1` or a dash where there is none, and the part: `ssm/A_log`."""
    block, part = _BLOCK.fullmatch(layer).groups()
    return ".".join(re.findall(r"\d+", block or "")) or "-", part
