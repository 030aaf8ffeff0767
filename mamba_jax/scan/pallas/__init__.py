"""The selective scan as one fused kernel per pass, for GPUs and TPUs: states never go to device memory for y.

Written in Pallas; CUDA goes through Mosaic GPU (Hopper and later: it copies by the tensor memory accelerator), TPU
through Mosaic. Each program carries the n states of 128 channels through time (`blocks`, `forward`); the derivative has
a kernel of its own, which starts from one kept state per 8 steps (`backward`). Any other platform interprets the
kernels, which is for tests, not for use.

What was checked: values and gradients in interpret mode on a CPU, and that both kernels lower for CUDA and TPU in
float32 and bfloat16. What was not: no kernel here has run on a GPU or a TPU, nor gone through the device compilers
that come after lowering, and no speed was measured. On CUDA the barriers that Pallas would put around every store are
switched off (`blocks.call` says why that should be safe), so a first run on a device should repeat the tests there.

The block sizes are for n = 16 (CUDA, float32: 76 KiB of shared memory for y alone, 110 KiB for the backward pass); the
backward pass needs more than a Hopper chip has from about n = 64 on.
"""

from mamba_jax.scan.pallas.forward import GRADIENT_STEPS, VALUE_STEPS
from mamba_jax.scan.pallas.fused import scan
from mamba_jax.scan.pallas.traffic import bytes_moved

__all__ = ["GRADIENT_STEPS", "VALUE_STEPS", "bytes_moved", "scan"]
