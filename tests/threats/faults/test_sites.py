"""Tables of sites: what is found, in which order, and what is said when nothing is."""

import jax
import jax.numpy as jnp
import pytest

from threats.faults import sites, slots

_PARAMS = (
    "block/Dense_0/bias",
    "block/Dense_0/kernel",
    "block/Dense_1/bias",
    "block/Dense_1/kernel",
    "block/decay",
    "head/bias",
    "head/kernel",
    "norm/bias",
    "norm/scale",
    "stem/bias",
    "stem/kernel",
)


def test_weight_sites_in_order_with_shape_and_dtype(tiny, tiny_bfloat16):
    table = sites.weight_sites(tiny.variables)
    assert table.paths == _PARAMS
    assert (table[1].shape, table[1].dtype, table[1].size, table[1].width) == ((4, 6), "float32", 24, 32)
    assert table.bits == 32 * sum(leaf.size for leaf in jax.tree.leaves(tiny.variables["params"]))
    narrow = sites.weight_sites(tiny_bfloat16.variables)
    assert (narrow[1].dtype, narrow[1].width) == ("bfloat16", 16)
    assert hash(table) == hash(sites.weight_sites(tiny.variables))
    assert table != narrow


def test_patterns_and_collections(tiny):
    chosen = sites.weight_sites(tiny.variables, include="block/*", exclude=("*/bias", "block/decay"))
    assert chosen.paths == ("block/Dense_0/kernel", "block/Dense_1/kernel")
    both = sites.weight_sites(tiny.variables, include=("head/bias", "norm/*"), collections=("params", "batch_stats"))
    assert both.paths == ("head/bias", "norm/bias", "norm/scale", "norm/mean", "norm/var")
    assert [site.collection for site in both][-2:] == ["batch_stats"] * 2


def test_activation_sites_are_the_taps_without_the_batch_axis(tiny):
    table = sites.activation_sites(tiny.apply, tiny.variables, tiny.images)
    assert table.paths == ("block/hidden", "stem_out")
    assert [site.shape for site in table] == [(3, 3, 6), (3, 3, 4)]
    assert {site.kind for site in table} == {"activation"}
    mixed = sites.weight_sites(tiny.variables, include="head/*") + table
    assert mixed.layers == ("head", "block/hidden", "stem_out")


def test_layers_join_kernel_and_bias_and_leave_the_rest_alone(tiny):
    assert sites.layer_of("stages_2/block_1/ssm/A_log") == "stages_2/block_1/ssm/A_log"
    assert sites.layer_of("stages_2/block_1/ssm/dt_bias") == "stages_2/block_1/ssm/dt_bias"
    assert sites.layer_of("stages_2/block_1/ssm/conv/bias") == "stages_2/block_1/ssm/conv"
    assert sites.layer_of("kernel") == "kernel"
    layers = sites.weight_sites(tiny.variables).layers
    assert layers == ("block/Dense_0", "block/Dense_1", "block/decay", "head", "norm", "stem")


def test_refusals_name_what_there_is(tiny):
    with pytest.raises(ValueError, match=r"include='stem/weight'.*known paths: block/Dense_0/bias.*stem/kernel"):
        sites.weight_sites(tiny.variables, include="stem/weight")
    with pytest.raises(ValueError, match=r"known paths: block/hidden, stem_out"):
        sites.activation_sites(tiny.apply, tiny.variables, tiny.images, include="head")
    with pytest.raises(ValueError, match=r"collections must be among \('params', 'batch_stats'\), got 'buffers'"):
        sites.weight_sites(tiny.variables, collections=("buffers",))
    with pytest.raises(ValueError, match="apply must take mutable"):
        sites.activation_sites(lambda v, x: x, tiny.variables, tiny.images)
    with pytest.raises(ValueError, match="must have named taps"):
        sites.activation_sites(lambda v, x, mutable: (x, {}), tiny.variables, tiny.images)
    table = sites.weight_sites(tiny.variables)
    with pytest.raises(ValueError, match="repeated: params/block/Dense_0/bias"):
        table + table
    with pytest.raises(ValueError, match="at least one site"):
        sites.SiteTable(())
    with pytest.raises(ValueError, match="kind must be one of"):
        sites.Site(path="a", kind="buffer", collection="params", shape=(1,), dtype="float32")
    with pytest.raises(ValueError, match=r"1 to 2\^31 - 1 elements"):
        sites.Site(path="a", kind="weight", collection="params", shape=(2**16, 2**15), dtype="float32")


def test_faults_outside_the_table_are_refused(tiny):
    table = sites.weight_sites(tiny.variables, include="head/*")

    def one(site, element, bit):
        return slots.Faults(*(jnp.asarray([[value]], jnp.int32) for value in (site, element, bit)))

    slots.check(one(1, 11, 31), table)
    slots.check(one(-1, 99, 99), table)
    for fault, message in (
        (one(2, 0, 0), "site must be below the table's 2 sites, got 2"),
        (one(0, 3, 0), r"element must be in 0\.\.2 for head/bias, got 3"),
        (one(1, 0, 32), r"bit must be in 0\.\.31 for head/kernel, got 32"),
        (slots.no_faults(3), r"of one shape \[trials, flips\]"),
    ):
        with pytest.raises(ValueError, match=message):
            slots.check(fault, table)
    with pytest.raises(ValueError, match="trials must be at least the 1 trials"):
        slots.pad(one(0, 0, 0), 0)
