"""The letters in which shapes are written, and the aliases that signatures share.

Letters:
  b  images (or sequences) in a batch        h, w  height and width of a feature map
  l  length of a sequence (tokens, h * w)    c     channels of an image or of a block
  d  inner channels of a state-space layer   n     states of one inner channel
  k  scan directions                         r     rank of the step-size projection
"""

from collections.abc import Mapping
from typing import Any, Literal

Task = Literal["multi-class", "binary", "ordinal", "multi-label"]
Variables = Mapping[str, Any]
ScanMethod = Literal["auto", "associative", "chunked", "pallas", "sequential"]
