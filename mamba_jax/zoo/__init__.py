"""Trained models that come with the library, by name: weights, how they were made, and what they reached."""

from mamba_jax.zoo.store import Pretrained, is_own, load, load_pretrained, names, path_of, save

__all__ = ["Pretrained", "is_own", "load", "load_pretrained", "names", "path_of", "save"]
