"""Linear recurrences h_t = a_t h_{t-1} + b_t: one front door, one file per method."""

from mamba_jax.scan.selective import METHODS, hidden_states, resolve_method, selective_scan

__all__ = ["METHODS", "hidden_states", "resolve_method", "selective_scan"]
