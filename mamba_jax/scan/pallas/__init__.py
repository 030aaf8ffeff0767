from mamba_jax.scan.pallas.fused import scan
__all__ = ["scan"]
