"""Names of layers: which stage and block of the network, which branch and part of it."""

import re

# `stages_2/block_1/ssm/A_log` is the part `ssm/A_log` of block 2.1; `stages_2/merge/norm` belongs to no block.
_BLOCK = re.compile(r"((?:stages?_?\d+/)?(?:blocks?|layers?)_?\d+/)?(.+)")


def split(layer: str) -> tuple[str, str]:
    """The block, `2.1` or a dash where there is none, and the part: `ssm/A_log`."""
    block, part = _BLOCK.fullmatch(layer).groups()
    return ".".join(re.findall(r"\d+", block or "")) or "-", part


def stage(layer: str) -> str:
    """The first name of its path: `stages_2`, `patch_embed`, `head`."""
    return layer.split("/")[0]


def branch(layer: str) -> str:
    """The first name of its part, `ssm` or `conv`; a dash outside of blocks."""
    block, part = split(layer)
    return "-" if block == "-" else part.split("/")[0]
