"""Attacks on a whole set of images: robust accuracy with intervals, the worst case, and whether the figures hold."""

from threats.evaluation.batches import even_size
from threats.evaluation.evaluate import Evaluation, evaluate
from threats.evaluation.sanity import Check, sanity_report

__all__ = ["Check", "Evaluation", "evaluate", "even_size", "sanity_report"]
