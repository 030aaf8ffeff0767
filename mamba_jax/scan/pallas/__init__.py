"""The selective scan as one fused kernel per pass, for GPUs and TPUs: states never go to device memory for y.

Written in Pallas; CUDA goes through Mosaic GPU (Hopper and later, whose tensor memory accelerator copies), TPU
through Mosaic. Each program carries the n states of 128 channels through time (`blocks`, `forward`); the derivative has
a kernel of its own, which starts from one kept state per 8 steps (`backward`). Any other platform interprets the
kernels, which is for tests, not for use.

What was checked on a CPU: values and gradients in interpret mode; the TPU kernels in JAX's TPU simulator with NaN in
unwritten memory; that both kernels lower for CUDA and TPU in float32 and bfloat16; and once by hand, for whole blocks,
the CUDA pipeline in JAX's GPU simulator, which found no race (its copies of partial blocks and the layout in which
`blocks.sum_rows` loads are not simulated). What was not: no kernel here has run on a GPU or a TPU, nor gone through the
device compilers that come after lowering, and no speed was measured. On CUDA the barriers that Pallas would put around
every store are switched off (`blocks` says why that should be safe): a first run on a device should repeat the tests.

The block sizes are for n = 16 (CUDA, float32: 60 KiB of shared memory for y alone, 112 KiB for the backward pass, so
that two programs fit a Hopper multiprocessor); by the same count n = 64 is about the most that the backward pass fits.
"""

from mamba_jax.scan.pallas.forward import GRADIENT_STEPS, VALUE_STEPS
from mamba_jax.scan.pallas.fused import scan
from mamba_jax.scan.pallas.traffic import bytes_moved

__all__ = ["GRADIENT_STEPS", "VALUE_STEPS", "bytes_moved", "scan"]
