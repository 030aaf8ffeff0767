"""A small campaign on a linear model, kept in Parquet parts, for a test to kill: `python killed_campaign.py FOLDER`."""

import sys

import jax
import jax.numpy as jnp

from experiments.storage import fingerprint, parts
from threats import campaigns


def apply(variables, images):
    """Logits of a linear model."""
    return images.reshape(images.shape[0], -1) @ variables["params"]["kernel"]


def make(trials: int, seed: int = 0):
    """The campaign and its fingerprint."""
    keys = jax.random.split(jax.random.key(5), 2)
    variables = {"params": {"kernel": jax.random.normal(keys[0], (16, 3))}}
    images = jax.random.uniform(keys[1], (64, 4, 4, 1))
    labels = jnp.argmax(apply(variables, images), axis=1).astype(jnp.int32)
    spec = campaigns.CampaignSpec(drawing="stratified", pilot=4, trials=trials, flips=1)
    campaign = campaigns.prepare(apply, variables, images, labels, spec, key=jax.random.key(seed))
    return campaign, fingerprint.fingerprint(apply, variables, images, labels, campaign, task="multi-class")


if __name__ == "__main__":
    campaign, identity = make(trials=int(sys.argv[2]))
    store = parts.PartFolder(sys.argv[1], identity, campaign.drawing.table)
    print("ready", flush=True)
    found = campaigns.conduct(campaign, store=store)
    print(found.trials.count)
