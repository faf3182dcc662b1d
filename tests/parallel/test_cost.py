import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from astrojax import config as configs
from astrojax.ops.attention import attention
from astrojax.ops.augment import Policy, Variable, augment, draw
from astrojax.parallel.cost import collective_bytes, count_products, largest_arrays, traced_products
from astrojax.parallel.mesh import MeshConfig, make_mesh
from astrojax.tasks import make_task


def test_a_product_costs_two_operations_per_multiplication():
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        products = traced_products(lambda a, b: a @ b, jnp.ones((8, 16)), jnp.ones((16, 32)))
    assert products.flops == 2 * 8 * 16 * 32
    assert products.bytes == 4 * (8 * 16 + 16 * 32 + 8 * 32)


def test_loops_count_as_often_as_they_turn_and_gradients_twice_more():
    def loss(w, x):
        return jnp.sum(jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0])

    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        w, x = jnp.ones((5, 16, 16)), jnp.ones((8, 16))
        forward = 5 * 2 * 8 * 16 * 16
        assert traced_products(loss, w, x).flops == forward
        assert traced_products(jax.grad(loss, argnums=(0, 1)), w, x).flops == 3 * forward
        assert traced_products(jax.grad(jax.checkpoint(loss), argnums=(0, 1)), w, x).flops == 4 * forward


def test_split_arrays_count_whole_in_operations_and_in_part_in_bytes():
    with jax.set_mesh(make_mesh(MeshConfig(fsdp=4), jax.devices()[:4])):
        x = jax.ShapeDtypeStruct(
            (8, 16), jnp.float32, sharding=jax.NamedSharding(jax.sharding.get_mesh(), P("fsdp", None))
        )
        w = jax.ShapeDtypeStruct((16, 32), jnp.float32)
        products = traced_products(lambda a, b: a @ b, x, w)

        @jax.shard_map(in_specs=(P("fsdp", None), P(None, None)), out_specs=P("fsdp", None))
        def by_hand(a, b):
            return a @ b

        assert traced_products(by_hand, x, w).flops == products.flops
    assert products.flops == 2 * 8 * 16 * 32
    assert products.bytes == 4 * (8 * 16 / 4 + 16 * 32 + 8 * 32 / 4)


def test_a_convolution_counts_its_window():
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        products = traced_products(
            lambda x, k: jax.lax.conv(x, k, (1, 1), "SAME"), jnp.ones((2, 3, 8, 8)), jnp.ones((5, 3, 3, 3))
        )
    assert products.flops == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)


@pytest.mark.parametrize("preset", ["tiny", "13b_aligned"])
def test_a_language_model_costs_two_operations_per_weight_and_token_and_its_attention(preset):
    """Chowdhery et al. 2022, appendix B: 2 N + 4 * layers * heads * head_dim * length per token forwards."""
    task = make_task(configs.load_config(f"configs/llm.py:{preset}"))
    model, data = task.config.model, task.config.data
    rows = task.config.train.batch_size
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with jax.set_mesh(mesh):
        params = jax.eval_shape(task.init, jax.random.key(0))
        counted = traced_products(task.loss, params, task.abstract_batch(mesh), jax.random.key(0)).flops
    matrices = [p for path, p in jax.tree_util.tree_leaves_with_path(params) if "norm" not in str(path[-1])]
    weights = sum(np.prod(p.shape) for p in matrices) - model.vocab_size * model.d_model
    attention = 4 * model.num_layers * model.num_heads * model.head_dim * data.seq_len
    assert counted == pytest.approx(rows * data.seq_len * (2 * weights + attention), rel=1e-6)


def test_collectives_of_a_compiled_program_are_counted():
    mesh = make_mesh(MeshConfig(fsdp=4), jax.devices()[:4])
    with jax.set_mesh(mesh):
        x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=jax.NamedSharding(mesh, P("fsdp", None)))

        def gathers(x):
            return jax.lax.scan(
                lambda c, _: (c + jnp.sin(jax.sharding.reshard(x * c, P(None, None))).sum(), None), 0.0, None, 7
            )[0]

        def sums(x):
            return jnp.sum(x, axis=0)

        gathered, summed = (jax.jit(f).lower(x).compile().as_text() for f in (gathers, sums))
    assert collective_bytes(gathered, 4) == 7 * 64 * 32 * 4 * 3 / 4
    assert collective_bytes(summed, 4) == 2 * 32 * 4 * 3 / 4


HLO = """HloModule step

%cond (p: (s32[], f32[8])) -> pred[] {
  %c = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}

%all-reduce-scatter.1 (input: bf16[128,4]) -> bf16[64,4] {
  %all-reduce.3 = bf16[128,4]{1,0} all-reduce(%input), replica_groups={{0,1}}, to_apply=%add
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %all-gather-start.1 = ((f32[8]{0}), f32[32]{0}) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}
  %fusion.1 = bf16[64,4]{1,0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %while.1 = (s32[], f32[8]) while(%t), condition=%cond, body=%body
  %reduce-scatter.1 = f32[16]{0} reduce-scatter(%b), replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, to_apply=%add
  %copy.1 = f32[1024]{0} copy(%b), metadata={op_name="jit(step)/while/body/transpose"}
  %offloaded = f32[4096]{0:S(5)} copy(%b)
}
"""


def test_the_ways_compilers_write_collectives_are_all_read():
    gather, scatter_of_sum, scatter = 32 * 4 * 3 / 4, 128 * 4 * 2 / 2, 16 * 4 * 3
    assert collective_bytes(HLO, 8) == 5 * (gather + scatter_of_sum) + scatter


def test_the_largest_arrays_on_the_device_are_named():
    first, *_ = largest_arrays(HLO, 3)
    assert first == (4096, "f32[1024]", "transpose")
    assert "f32[4096]" not in {array.type for array in largest_arrays(HLO, 10)}
    assert "f32[1024]" not in {array.type for array in largest_arrays(HLO, 10, {"f32[1024]"})}


def test_a_program_without_products_costs_nothing():
    assert count_products(jax.make_jaxpr(jnp.sin)(1.0).jaxpr) == (0, 0)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 2, 2)])
def test_kernels_count_what_they_say_or_their_whole_grid(sizes):
    """Forward and backward of causal attention: 9 products of the pairs that meet; of a kernel that says nothing, of
    all pairs of its tiles."""
    b, t, n, h = 8, 512, 8, 64
    mesh = make_mesh(MeshConfig(data=sizes[0], fsdp=sizes[1], tensor=sizes[2]), jax.devices()[: np.prod(sizes)])
    with jax.set_mesh(mesh):
        spec = P(("data", "fsdp"), None, "tensor", None)
        query, key = (jax.ShapeDtypeStruct((b, t, heads, h), jnp.float32, sharding=spec) for heads in (n, n // 4))

        def flops(implementation):
            def loss(query, key):
                out = attention(query, key, key, causal=True, implementation=implementation, interpret=True)
                return jnp.sum(out)

            return traced_products(jax.grad(loss, argnums=(0, 1)), query, key).flops

        pairs = 2 * b * n * h
        # The 9 products, and what the gradient of the softmax subtracts.
        assert flops("triton") == pytest.approx(pairs * 9 * t * (t + 1) / 2, rel=0.01)
        assert pairs * 9 * t * t / 2 < flops("splash") < pairs * 10 * t * t


def test_a_kernel_without_products_has_none():
    def step(cube):
        yes = jnp.ones(2, bool)
        draws = draw(jax.random.key(0), Policy(), rotating=yes, seasons=yes, num_climate_time=2)
        return augment(
            cube, draws, [Variable("air_temperature", "additive", 1.0)], implementation="triton", interpret=True
        )

    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        assert traced_products(step, jnp.ones((2, 1, 2, 1, 1, 4, 8))).flops == 0
