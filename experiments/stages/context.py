"""What a stage gets: the configuration, the images, the model with its weights, and where to put files."""

import dataclasses
import functools
import sys
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import tqdm

from experiments.settings import config, options
from experiments.stages import batched
from experiments.storage import folder, records
from mamba_jax import data, models, training
from threats import outcomes

Stage = Callable[["Context"], list[records.Measurement]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """One run under way.

    Attributes:
      config: all that decides numbers.
      run: what does not.
      folder: of the run.
      dataset: the images.
      model: the model; `model.apply(variables, images)` is what threats take.
      variables: its weights; before training those that it starts from, or None.
      trained: whether `variables` came out of this run's training.
      fitted: what several processes have trained together before the stages, or None.
    """

    config: config.ExperimentConfig
    run: options.RunOptions
    folder: folder.RunFolder
    dataset: data.Dataset
    model: models.Model
    variables: Any
    trained: bool
    fitted: training.FitResult | None = None

    @property
    def task(self) -> str:
        return self.dataset.task

    @functools.cached_property
    def apply(self) -> Any:
        """The model in evaluation mode, compiled: `(variables, images) -> logits`."""
        return jax.jit(self.model.apply)

    def key(self, *names: str | int) -> jax.Array:
        """The random key of a named purpose: the seed folded by the names, so that no two purposes share draws."""
        key = jax.random.key(self.config.seed)
        for name in names:
            number = zlib.crc32(name.encode()) if isinstance(name, str) else name
            key = jax.random.fold_in(key, number)
        return key

    def test_images(self, count: int) -> data.Split:
        """`count` test images in the proportions of the classes, the same ones in every stage; all of them for 0."""
        test = self.dataset.splits["test"]
        return data.stratified_subset(test, count or len(test), seed=self.config.seed)

    def map(
        self,
        function: Any,
        split: data.Split,
        *,
        key: jax.Array,
        bar: tqdm.tqdm | None = None,
        batch_size: int | None = None,
    ) -> Any:
        """`batched.map_batches` in batches of the configured size, or of another."""
        size = batch_size or self.config.eval_batch_size
        return batched.map_batches(function, split, batch_size=size, key=key, bar=bar)

    def clean_logits(
        self, split: data.Split, bar: tqdm.tqdm | None = None, batch_size: int | None = None
    ) -> np.ndarray:
        """[n, k] logits of undisturbed images."""

        def clean(key, images, labels):
            return self.apply(self.variables, images)

        return self.map(clean, split, key=self.key("clean"), bar=bar, batch_size=batch_size)

    def logits(self, disturb: Any, split: data.Split, *, key: jax.Array, bar: tqdm.tqdm | None = None) -> np.ndarray:
        """[n, k] logits of disturbed images.

        Args:
          disturb: `(key, images, labels) -> images`. It is compiled apart from the model, which is compiled once for
            all threats that take batches of one size.
          split: n test images.
          key: folded by the number of the batch.
          bar: moved forward by the images done.
        """

        def batch_logits(batch_key, images, labels):
            return self.apply(self.variables, disturb(batch_key, images, labels))

        return self.map(batch_logits, split, key=key, bar=bar)

    def decisions(self, logits: np.ndarray) -> np.ndarray:
        """Decided classes [n] (in multi-label, labels [n, k]); -1 where the output is not finite."""
        answers = np.asarray(outcomes.decisions(logits, self.task))
        finite = np.isfinite(logits).all(axis=-1)
        return np.where(finite.reshape((-1,) + (1,) * (answers.ndim - 1)), answers, -1)

    def bar(self, total: int, what: str, unit: str = "images") -> tqdm.tqdm:
        """A progress bar with its rate, on standard error; a file or a pipe gets a line every half minute."""
        interval = 0.2 if sys.stderr.isatty() else 30.0
        return tqdm.tqdm(total=total, desc=what, unit=f" {unit}", mininterval=interval, leave=False, dynamic_ncols=True)
