"""What a fault campaign asks: where faults hit, what they do, how they are drawn, and how many trials answer it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from threats import statistics
from threats.faults import slots

KINDS = ("weights", "statistics", "scales", "activations", "states")
DRAWINGS = ("bits", "layers", "exhaustive", "stratified")
ALLOCATIONS = ("proportional", "neyman")
METRICS = {
    "accuracy": "accuracy under fault",
    "auc": "AUC under fault",
    "sdc": "share of decisions that change silently",
    "nonfinite": "share of outputs that are not finite",
    "sdc_trial": "trials with a silent change of a decision",
    "due_trial": "trials with an output that is not finite (DUE)",
    "critical_1": "trials that lose more than 1 point of accuracy",
    "critical_5": "trials that lose more than 5 points of accuracy",
    "critical_10": "trials that lose more than 10 points of accuracy",
}
_OF_MANY_IMAGES = ("auc", "critical_1", "critical_5", "critical_10")
_MOST_TRIALS = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CampaignSpec:
    """A campaign, in full: with the model, the data and a key it fixes every trial.

    Attributes:
      kinds: of `KINDS`, mixed freely: "weights" (collection `params`), "statistics" (of batch norms: `batch_stats`),
        "scales" (of weights held in int8, see `faults.formats`), "activations" (named taps) and "states" (the hidden
        state of selective scans).
      include, exclude: path patterns as in `faults.weight_sites`.
      field: bits of this field only ("sign", "exponent", "mantissa", "magnitude"), or None.
      bits: these bit positions only, or None.
      action: one of `faults.ACTIONS`.
      flips: bits that each trial hits, all distinct.
      burst: adjacent bits that one hit covers; more than 1 only with `flips` 1.
      bit_error_rate: instead of `flips`, the chance of every bit: their number is drawn from its binomial.
      one_shot: each trial hits one image's inference only, drawn with the trial, instead of all of them.
      drawing: "bits" (every bit equally likely), "layers" (every layer), "exhaustive" (every bit once, in order), or
        "stratified" over pairs of layer and bit field.
      allocation: of stratified trials: "proportional" to the strata's bits, or "neyman", from a pilot.
      pilot: trials per stratum before a Neyman allocation.
      trials: how many; None where `half_width` says it, or for an exhaustive campaign.
      half_width: of the interval of `metric`: the campaign stops when it is reached. A stratified campaign has two
        stages instead: its pilot says how many trials the half-width takes, and these run.
      confidence: of every interval, in (0, 1).
      metric: one of `METRICS`, which `half_width` and the allocation are for.
    """

    kinds: tuple[str, ...] = ("weights",)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    field: str | None = None
    bits: tuple[int, ...] | None = None
    action: str = "flip"
    flips: int = 1
    burst: int = 1
    bit_error_rate: float | None = None
    one_shot: bool = False
    drawing: str = "bits"
    allocation: str = "neyman"
    pilot: int = 8
    trials: int | None = None
    half_width: float | None = None
    confidence: float = 0.95
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        for name in ("kinds", "include", "exclude", "bits"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"{name} must be a sequence, got {value!r}: write ({value!r},)")
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        for name, known in (("action", slots.ACTIONS), ("drawing", DRAWINGS), ("allocation", ALLOCATIONS)):
            _one_of(name, getattr(self, name), known)
        _one_of("metric", self.metric, tuple(METRICS))
        for kind in self.kinds:
            _one_of("kinds", kind, KINDS)
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds must name at least one of {KINDS}, each once, got {self.kinds}")
        for name, least in (("flips", 1), ("burst", 1), ("pilot", 2), ("trials", 2)):
            value = getattr(self, name)
            if value is not None and value > _MOST_TRIALS:
                raise ValueError(f"{name} must be at most {_MOST_TRIALS}, got {value}")
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self._check_amounts()

    def _check_amounts(self) -> None:
        for name in ("half_width", "confidence", "bit_error_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {value}")
        if self.burst > 1 and (self.flips > 1 or self.bit_error_rate is not None):
            raise ValueError("burst is of one hit per trial: give neither flips nor bit_error_rate with it")
        if self.bit_error_rate is not None and self.flips > 1:
            raise ValueError("flips and bit_error_rate exclude each other: the rate says how many bits are hit")
        if self.drawing in ("exhaustive", "stratified") and (self.flips > 1 or self.bit_error_rate is not None):
            raise ValueError(f"drawing {self.drawing!r} has one hit per trial: give neither flips nor bit_error_rate")
        if self.drawing == "layers" and self.bit_error_rate is not None:
            raise ValueError("bit_error_rate is the same for every bit: it needs drawing 'bits'")
        if self.drawing == "exhaustive" and (self.half_width is not None or self.trials is not None):
            raise ValueError("drawing 'exhaustive' runs every bit once: give neither trials nor half_width")
        if self.drawing != "exhaustive" and (self.half_width is None) == (self.trials is None):
            raise ValueError("give either trials or half_width")
        if self.one_shot and self.metric in _OF_MANY_IMAGES:
            raise ValueError(f"metric {self.metric!r} is of many images, a trial with one_shot has one: choose another")
        if self.one_shot and self.drawing == "exhaustive":
            raise ValueError("one_shot draws an image for each trial: it needs another drawing than 'exhaustive'")

    def describe(self) -> dict[str, Any]:
        """Plain values, for JSON and fingerprints."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "CampaignSpec":
        """The inverse of `describe`."""
        return cls(**values)

    def planned(self, population: int) -> int:
        """How many trials at most, of `population` possible faults: given, or by the finite-population formula.

        Where the campaign may stop early, half of the error that `confidence` leaves is spent on the looks before the
        end and half on the end, so that both together keep it: 12,555 trials for 1 point at 95 %, not 9,604. Trials are
        drawn with replacement: where they would be more than a twentieth of the population, it counts as infinite.
        """
        if self.drawing == "exhaustive":
            return population
        if self.trials is not None:
            return self.trials
        confidence = (1 + self.confidence) / 2 if self.drawing != "stratified" else self.confidence
        size = statistics.sample_size(population, half_width=self.half_width, confidence=confidence)
        if size > population / 20:
            size = statistics.sample_size(10**18, half_width=self.half_width, confidence=confidence)
        return size


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {known}, got {value!r}")
