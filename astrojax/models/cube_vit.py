"""The 5-D CNN-ViT of the climate task: cubes over climate time, geological time, level, latitude and longitude.

A convolutional stem over level, latitude and longitude reads boundary maps (which have one level) and known fields;
patches over all five axes become tokens; the heads of each
transformer layer divide into four groups, each of which attends along its own axes (factorised dot-product attention,
Arnab et al. 2021, ViViT's model 4): space within local windows, all of space, climate time, geological time. A
convolutional decoder joins what the tokens say with what the stem saw, so that local physics stays local.

Positions are real coordinates and enter only relative to each other, by rotation (Su et al. 2021): longitude and
climate time with whole wave numbers, hence periodic. What is absolute about a place, such as its insolation or the
Coriolis parameter, is a boundary map. The maps turned by whole windows therefore give the climate turned likewise.
"""

import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from astrojax.config import Config, NonNegative, Positive, PositiveFloat
from astrojax.models.layers import (
    IN_SPLIT,
    OUT_SPLIT,
    SwiGLU,
    check_splits,
    constant,
    linear,
    normal,
    remat,
    residual_std,
    rms_norm,
    rotate,
)
from astrojax.ops import attention as attention_ops
from astrojax.parallel.sharding import BATCH
from astrojax.precision import Precision

_LEVEL_WAVES = 4  # Sines and cosines of a level's log-pressure that tell the stem where it is.


class Patch(Config):
    """How many cells of each axis make one token."""

    climate_time: Positive = 1
    geological_time: Positive = 1
    lev: Positive = 1
    lat: Positive = 1
    lon: Positive = 1

    @property
    def volume(self) -> int:
        return math.prod(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.climate_time, self.geological_time, self.lev, self.lat, self.lon


class Window(Config):
    """How many tokens of each axis of space see each other in local attention."""

    lev: Positive = 1
    lat: Positive = 4
    lon: Positive = 4

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.lev, self.lat, self.lon


class Heads(Config):
    """How many heads of each layer attend along what: space within a window, all of space, or one of the times."""

    local: Positive = 1
    space: Positive = 1
    climate_time: Positive = 1
    geological_time: Positive = 1

    @property
    def total(self) -> int:
        return self.local + self.space + self.climate_time + self.geological_time


class CubeViTConfig(Config):
    """Shape of the CNN-ViT.

    Attributes:
        patch: cells per token.
        window: tokens per window.
        heads: heads per group.
        head_dim: even; a multiple of 6 divides evenly over longitude, latitude and level.
        stem_channels: channels of the stem, which works on one level where it reads boundary maps only.
        stem_blocks: convolutional blocks of the stem.
        decoder_channels: channels of the decoder, which works on all levels.
        d_condition: size of the embedding of the planet's parameters, which modulates every block.
        norm_eps: added to the mean square in RMSNorm.
        attention: implementation of :func:`astrojax.ops.attention.attention`.
        remat: which activations a block keeps for its backward pass (:func:`remat`).
        scan_unroll: layers per iteration of the scan.
    """

    patch: Patch
    num_layers: Positive
    d_model: Positive
    d_ff: Positive
    head_dim: Positive
    window: Window = Window()
    heads: Heads = Heads()
    stem_channels: Positive = 32
    stem_blocks: NonNegative = 1
    decoder_channels: Positive = 16
    d_condition: Positive = 64
    norm_eps: PositiveFloat = 1e-5
    attention: attention_ops.Implementation = "auto"
    remat: Literal["none", "dots", "full"] = "full"
    scan_unroll: Positive = 1
    precision: Precision = Precision()

    def __post_init__(self):
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even")


class Channels(NamedTuple):
    """How many numbers the model reads and writes at a place.

    Attributes:
        maps: boundary maps.
        parameters: of the planet and epoch.
        observed: known fields and their flags; 0 for an emulator, which knows none.
        levels: variables on levels.
        surface: variables on the surface.
    """

    maps: int
    parameters: int
    observed: int
    levels: int
    surface: int


class Coordinates(NamedTuple):
    """Where the cells are: any grid whose axes the patches and windows divide.

    Attributes:
        climate_time: ``[t]``, fractions of a year.
        lev: ``[z]``, fractions of the surface pressure (sigma), or of any reference pressure.
        lat: ``[y]``, degrees north, ascending.
        lon: ``[x]``, degrees east, equally spaced around the circle.
    """

    climate_time: np.ndarray
    lev: np.ndarray
    lat: np.ndarray
    lon: np.ndarray


class Inputs(NamedTuple):
    """What the model reads of a batch of planets.

    Attributes:
        maps: boundary maps, standardised.
        parameters: of each planet and epoch, standardised.
        ages: of each epoch, in Ga.
        present: which epochs there are; no other epoch reads from one that is not.
        observed: known fields, standardised and zero where unknown, and flags; None where the model reads none.
    """

    maps: Float[Array, "b m t g 1 y x"]
    parameters: Float[Array, "b g p"]
    ages: Float[Array, "b g"]
    present: Bool[Array, "b g"]
    observed: Float[Array, "b o t g z y x"] | None = None


class Tokens(NamedTuple):
    """What the layers pass on, and what the head and the conditioning need."""

    x_btgsd: Float[Array, "b t g s d"]
    condition_bgc: Float[Array, "b g c"]
    features_btgzyxc: Float[Array, "b t g z y x c"]


def check_mesh(config: CubeViTConfig, mesh_shape: dict[str, int], *, observed: bool) -> None:
    """Checks that every split dimension divides.

    Raises:
        ValueError: names the field and the mesh axes that do not fit.
    """
    fsdp, tensor = mesh_shape["fsdp"], mesh_shape["tensor"]
    groups = {f"heads.{name}": getattr(config.heads, name) for name in _GROUPS}
    stem = _stem_patch(config.patch, observed).volume * config.stem_channels
    check_splits(
        (
            *((name, size, "tensor", tensor) for name, size in groups.items()),
            ("d_model", config.d_model, "fsdp", fsdp),
            ("d_model", config.d_model, "tensor", tensor),
            ("d_ff", config.d_ff, "fsdp * tensor", fsdp * tensor),
            ("heads.total * head_dim", config.heads.total * config.head_dim, "fsdp * tensor", fsdp * tensor),
            ("stem_channels * patch", stem, "fsdp", fsdp),
            ("decoder_channels * patch", config.patch.volume * config.decoder_channels, "tensor", tensor),
        )
    )


def check_cube(config: CubeViTConfig, shape: dict[str, int]) -> None:
    """Checks that patches and windows divide the axes of a cube.

    Raises:
        ValueError: names the axis and the sizes.
    """
    for (axis, size), patch in zip(shape.items(), config.patch.sizes, strict=True):
        if size % patch:
            raise ValueError(f"model.patch.{axis}={patch} does not divide the cube's {axis}={size}")
        window = getattr(config.window, axis, 1)
        if (size // patch) % window:
            raise ValueError(f"model.window.{axis}={window} does not divide the {size // patch} tokens along {axis}")


class CubeViT(nnx.Module):
    """Stem, ``num_layers`` stacked blocks, decoder."""

    def __init__(self, config: CubeViTConfig, channels: Channels, *, rngs: nnx.Rngs):
        self.config = config
        self.stem = Stem(config, channels, rngs=rngs)
        self.blocks = jax.vmap(lambda r: Block(config, rngs=r))(rngs.split(config.num_layers))
        self.decoder = Decoder(config, channels, rngs=rngs)

    def embed(self, inputs: Inputs, coordinates: Coordinates) -> Tokens:
        """What the first layer reads."""
        return self.stem(inputs, coordinates)

    def __call__(self, inputs: Inputs, coordinates: Coordinates) -> tuple[Array, Array]:
        """Fields as :class:`Decoder` leaves them."""
        config = self.config
        tokens = self.embed(inputs, coordinates)

        @remat(config.remat, prevent_cse=False)
        def layer(x_btgsd, block):
            return block(x_btgsd, tokens.condition_bgc, inputs.ages, inputs.present, coordinates), None

        x_btgsd, _ = jax.lax.scan(layer, tokens.x_btgsd, self.blocks, unroll=min(config.scan_unroll, config.num_layers))
        return self.decoder(tokens._replace(x_btgsd=x_btgsd), inputs, coordinates)


class Stem(nnx.Module):
    """Reads boundary maps, parameters and known fields at every cell, and makes tokens of patches."""

    def __init__(self, config: CubeViTConfig, channels: Channels, *, rngs: nnx.Rngs):
        p, c, e, d = config.precision, config.stem_channels, config.d_condition, config.d_model
        self.config = config
        self.maps_mc = normal(rngs, (channels.maps, c), channels.maps**-0.5, p, P(None, None))
        if channels.observed:
            self.observed_oc = normal(rngs, (channels.observed, c), channels.observed**-0.5, p, P(None, None))
        self.parameters_pe = normal(rngs, (channels.parameters, e), channels.parameters**-0.5, p, P(None, None))
        self.parameters_bias_e = constant(0.0, (e,), p)
        self.blocks = nnx.List(ConvBlock(config, c, rngs=rngs) for _ in range(config.stem_blocks))
        self.norm_c = constant(1.0, (c,), p)
        size = _stem_patch(config.patch, bool(channels.observed)).volume * c
        self.patch_id = normal(rngs, (size, d), size**-0.5, p, IN_SPLIT)
        self.levels_ld = normal(rngs, (2 * _LEVEL_WAVES, d), (2 * _LEVEL_WAVES) ** -0.5, p, P(None, None))

    def __call__(self, inputs: Inputs, coordinates: Coordinates) -> Tokens:
        config, p = self.config, self.config.precision
        dtype = p.compute_dtype
        condition_bgc = linear(inputs.parameters.astype(dtype), self.parameters_pe, p)
        condition_bgc = jax.nn.silu(condition_bgc + self.parameters_bias_e[...].astype(dtype))
        x = pointwise(jnp.moveaxis(inputs.maps, 1, -1).astype(dtype), self.maps_mc, p)
        if inputs.observed is not None:
            x = x + pointwise(jnp.moveaxis(inputs.observed, 1, -1).astype(dtype), self.observed_oc, p)
        for block in self.blocks:
            x = _remat(block, config)(x, condition_bgc)
        x = rms_norm(x, self.norm_c[...], config.norm_eps)
        patches = _to_patches(x, _stem_patch(config.patch, inputs.observed is not None))
        b, t, g, _, i = patches.shape
        tokens = linear(jnp.reshape(patches, (b, -1, i), out_sharding=P(BATCH)), self.patch_id, p)
        z, lat, lon = _token_counts(coordinates, config.patch)
        tokens = jnp.reshape(tokens, (b, t, g, -1, lat * lon, config.d_model), out_sharding=P(BATCH))
        levels_zd = _level_waves(_patch_means(coordinates.lev, config.patch.lev), dtype) @ self.levels_ld[...].astype(
            dtype
        )
        tokens = tokens + levels_zd[:, None]
        return Tokens(
            jnp.reshape(tokens, (b, t, g, z * lat * lon, config.d_model), out_sharding=P(BATCH)), condition_bgc, x
        )


class ConvBlock(nnx.Module):
    """Depthwise convolution over (lev, lat, lon) and a pointwise layer, modulated by the parameters."""

    def __init__(self, config: CubeViTConfig, channels: int, *, rngs: nnx.Rngs):
        p, c = config.precision, channels
        self.config = config
        self.norm_c = constant(1.0, (c,), p)
        self.kernel_kc = normal(rngs, (7, c), 7**-0.5, p, P(None, None))
        self.modulation_ec = constant(0.0, (config.d_condition, 2 * c), p)
        self.up_cf = normal(rngs, (c, 2 * c), c**-0.5, p, P(None, None))
        self.up_bias_f = constant(0.0, (2 * c,), p)
        self.down_fc = normal(rngs, (2 * c, c), (4 * c) ** -0.5, p, P(None, None))

    def __call__(self, x: Float[Array, "b t g z y x c"], condition_bgc) -> Float[Array, "b t g z y x c"]:
        p = self.config.precision
        scale, shift = jnp.split(linear(condition_bgc, self.modulation_ec, p)[:, None, :, None, None, None], 2, -1)
        y = rms_norm(x, self.norm_c[...], self.config.norm_eps) * (1 + scale) + shift
        y = y + depthwise_convolution(y, self.kernel_kc[...].astype(y.dtype))
        y = jax.nn.gelu(pointwise(y, self.up_cf, p) + self.up_bias_f[...].astype(y.dtype))
        return x + pointwise(y, self.down_fc, p)


def depthwise_convolution(x: Float[Array, "b t g z y x c"], kernel: Float[Array, "7 c"]) -> Array:
    """Sums each cell and its six neighbours in (lev, lat, lon), weighted by channel: a finite-difference stencil.

    Longitude is periodic; beyond a pole lies the same row half-way around; beyond the top and bottom lies the
    outermost level again. Written as sums of shifted arrays: XLA's grouped convolutions are far slower on CPUs and
    split over no mesh.
    """
    z, y, lon = -4, -3, -2

    def first(axis):
        return jax.lax.slice_in_dim(x, 0, 1, axis=axis % x.ndim)

    def last(axis):
        return jax.lax.slice_in_dim(x, x.shape[axis] - 1, x.shape[axis], axis=axis % x.ndim)

    def down(axis, beyond):
        return jnp.concatenate([beyond, jax.lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis % x.ndim)], axis)

    def up(axis, beyond):
        return jnp.concatenate([jax.lax.slice_in_dim(x, 1, x.shape[axis], axis=axis % x.ndim), beyond], axis)

    over_the_pole = functools.partial(jnp.roll, shift=x.shape[lon] // 2, axis=lon)
    cells = (
        x,
        down(lon, last(lon)),
        up(lon, first(lon)),
        down(y, over_the_pole(first(y))),
        up(y, over_the_pole(last(y))),
        down(z, first(z)),
        up(z, last(z)),
    )
    return sum(cell * weight for cell, weight in zip(cells, kernel, strict=True))


class Block(nnx.Module):
    """One layer: factorised attention and SwiGLU, modulated by the parameters (Peebles and Xie 2023, adaLN)."""

    def __init__(self, config: CubeViTConfig, *, rngs: nnx.Rngs):
        p, d, o = config.precision, config.d_model, config.heads.total * config.head_dim
        self.config = config
        self.modulation_ed = constant(0.0, (config.d_condition, 6 * d), p)
        self.attention_norm_d = constant(1.0, (d,), p)
        self.q_do, self.k_do, self.v_do = (normal(rngs, (d, o), d**-0.5, p, IN_SPLIT) for _ in range(3))
        self.o_od = normal(rngs, (o, d), residual_std(o, config.num_layers), p, OUT_SPLIT)
        self.mlp_norm_d = constant(1.0, (d,), p)
        self.mlp = SwiGLU(d, config.d_ff, config.num_layers, p, rngs=rngs)

    def __call__(self, x_btgsd, condition_bgc, ages_bg, present_bg, coordinates: Coordinates):
        config = self.config
        b, t, g, s, d = x_btgsd.shape
        epochs = config.patch.geological_time
        condition_bgc = jnp.mean(jnp.reshape(condition_bgc, (b, g, epochs, -1), out_sharding=P(BATCH)), axis=2)
        present_bg = jnp.any(jnp.reshape(present_bg, (b, g, epochs), out_sharding=P(BATCH)), axis=2)
        modulation = linear(condition_bgc, self.modulation_ed, config.precision)[:, None, :, None]
        scale_a, shift_a, gate_a, scale_m, shift_m, gate_m = jnp.split(modulation, 6, axis=-1)

        def flat(x):
            return jnp.reshape(x, (b, t * g * s, d), out_sharding=P(BATCH))

        def split(x):
            return jnp.reshape(x, (b, t, g, s, d), out_sharding=P(BATCH))

        y = rms_norm(x_btgsd, self.attention_norm_d[...], config.norm_eps) * (1 + scale_a) + shift_a
        y = self._attend(flat(y), (t, g), ages_bg, present_bg, coordinates)
        x_btgsd += (1 + gate_a) * split(y)
        y = rms_norm(x_btgsd, self.mlp_norm_d[...], config.norm_eps) * (1 + scale_m) + shift_m
        return x_btgsd + (1 + gate_m) * split(self.mlp(flat(y)))

    def _attend(self, x_bnd, times, ages_bg, present_bg, coordinates):
        config, p, h = self.config, self.config.precision, self.config.head_dim
        b, n, _ = x_bnd.shape
        space = _token_counts(coordinates, config.patch)
        windows = [size for m, w in zip(space, config.window.sizes, strict=True) for size in (m // w, w)]

        def heads(weight):
            y = linear(x_bnd, weight, p)
            return jnp.reshape(y, (b, *times, *windows, y.shape[-1] // h, h), out_sharding=_HEADS)

        q, k, v = heads(self.q_do), heads(self.k_do), heads(self.v_do)
        angles = _angles(coordinates, config.patch, windows, ages_bg, h)
        groups, first = [], 0
        for name, axes in _GROUPS.items():
            last = first + getattr(config.heads, name)
            turn = functools.partial(rotate, angles=angles[name])
            q_, k_, v_ = (x[..., first:last, :] for x in (q, k, v))
            segments = _segments(present_bg, q.shape[:9]) if name == "geological_time" else None
            groups.append(_attend_along(axes, turn(q_), turn(k_), v_, segments, config.attention))
            first = last
        out = jnp.concatenate(groups, axis=-2)
        return linear(jnp.reshape(out, (b, n, -1), out_sharding=P(BATCH, None, "tensor")), self.o_od, p)


class Decoder(nnx.Module):
    """Joins tokens and stem at every cell; the fields it leaves are numbers of order one."""

    def __init__(self, config: CubeViTConfig, channels: Channels, *, rngs: nnx.Rngs):
        p, c, d = config.precision, config.decoder_channels, config.d_model
        self.config = config
        self.final_norm_d = constant(1.0, (d,), p)
        self.patch_di = normal(rngs, (d, config.patch.volume * c), d**-0.5, p, IN_SPLIT)
        self.features_cc = normal(rngs, (config.stem_channels, c), config.stem_channels**-0.5, p, P(None, None))
        self.levels_lc = normal(rngs, (2 * _LEVEL_WAVES, c), (2 * _LEVEL_WAVES) ** -0.5, p, P(None, None))
        self.block = ConvBlock(config, c, rngs=rngs)
        self.levels = FieldHead(config, channels, c, channels.levels, rngs=rngs)
        self.surface = FieldHead(config, channels, 2 * c + config.stem_channels, channels.surface, rngs=rngs)

    def __call__(self, tokens: Tokens, inputs: Inputs, coordinates: Coordinates) -> tuple[Array, Array]:
        """``[b, v, t, g, z, y, x]`` on levels and ``[b, v, t, g, 1, y, x]`` on the surface, float32."""
        config, p = self.config, self.config.precision
        features = tokens.features_btgzyxc
        x = rms_norm(tokens.x_btgsd, self.final_norm_d[...], config.norm_eps)
        b, t, g, s, d = x.shape
        patches = linear(jnp.reshape(x, (b, t * g * s, d), out_sharding=P(BATCH)), self.patch_di, p)
        patches = jnp.reshape(patches, (b, t, g, s, patches.shape[-1]), out_sharding=P(BATCH))
        cube = (*features.shape[:3], len(coordinates.lev), *features.shape[4:6], config.decoder_channels)
        levels_zc = _level_waves(coordinates.lev, x.dtype) @ self.levels_lc[...].astype(x.dtype)
        x = _from_patches(patches, config.patch, cube) + pointwise(features, self.features_cc, p)
        x = _remat(self.block, config)(x + levels_zc[:, None, None, :], tokens.condition_bgc)
        # The surface reads the lowest level, the column's mean and what the stem knows of the ground.
        column = jnp.concatenate([x[:, :, :, -1:], jnp.mean(x, axis=3, keepdims=True), features[:, :, :, -1:]], axis=-1)
        return self.levels(x, inputs), self.surface(column, inputs)


class FieldHead(nnx.Module):
    """A layer at each cell, beside a linear function of the boundary maps and the parameters."""

    def __init__(self, config: CubeViTConfig, channels: Channels, size: int, outputs: int, *, rngs: nnx.Rngs):
        p, c = config.precision, size
        self.config = config
        self.norm_c = constant(1.0, (size,), p)
        self.up_cf = normal(rngs, (size, 2 * c), size**-0.5, p, P(None, None))
        self.up_bias_f = constant(0.0, (2 * c,), p)
        self.out_fv = normal(rngs, (2 * c, outputs), 0.3 * (2 * c) ** -0.5, p, P(None, None))
        self.out_bias_v = constant(0.0, (outputs,), p)
        self.maps_mv = constant(0.0, (channels.maps, outputs), p)
        self.parameters_pv = constant(0.0, (channels.parameters, outputs), p)

    def __call__(self, x: Float[Array, "b t g z y x c"], inputs: Inputs) -> Float[Array, "b v t g z y x"]:
        p = self.config.precision
        dtype = p.compute_dtype
        x = rms_norm(x, self.norm_c[...], self.config.norm_eps)
        x = jax.nn.gelu(pointwise(x, self.up_cf, p) + self.up_bias_f[...].astype(dtype))
        y = pointwise(x, self.out_fv, p) + self.out_bias_v[...].astype(dtype)
        y = y + pointwise(jnp.moveaxis(inputs.maps, 1, -1).astype(dtype), self.maps_mv, p)
        y = y + linear(inputs.parameters.astype(dtype), self.parameters_pv, p)[:, None, :, None, None, None]
        return jnp.moveaxis(y, -1, 1).astype(jnp.float32)


def pointwise(x: Float[Array, "b ... i"], weight: nnx.Param, precision: Precision) -> Float[Array, "b ... o"]:
    """``x @ weight`` at each cell."""
    rows = jnp.reshape(x, (x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]), out_sharding=P(BATCH))
    y = linear(rows, weight, precision)
    return jnp.reshape(y, (*x.shape[:-1], y.shape[-1]), out_sharding=P(BATCH))


# Inside a layer tokens are [b, t, g, z, wz, y, wy, x, wx, heads, head_dim], windows times places in a window; these are
# the axes that a group of heads attends along.
_GROUPS = {"local": (4, 6, 8), "space": (3, 4, 5, 6, 7, 8), "climate_time": (1,), "geological_time": (2,)}
_HEADS = P(BATCH, *[None] * 8, "tensor", None)


def _attend_along(axes, query, key, value, segments, implementation):
    """Attention along ``axes``, for each place along the others. ``segments`` ``[b, ...]`` keeps places apart."""
    rows = [axis for axis in range(9) if axis not in axes]
    order = [*rows, *axes]
    shape = query.shape
    length = math.prod(shape[axis] for axis in axes)

    def grouped(x):
        x = jnp.transpose(x, (*order, 9, 10))
        return jnp.reshape(x, (-1, length, *x.shape[-2:]), out_sharding=P(BATCH, None, "tensor", None))

    if segments is not None:
        segments = jnp.reshape(jnp.transpose(segments, order), (-1, length), out_sharding=P(BATCH, None))
    out = attention_ops.attention(
        grouped(query), grouped(key), grouped(value), segment_ids=segments, implementation=implementation
    )
    split = [shape[axis] for axis in order]
    out = jnp.reshape(out, (*split, *shape[-2:]), out_sharding=_HEADS)
    return jnp.transpose(out, (*np.argsort(order), 9, 10))


def _segments(present_bg, shape: tuple[int, ...]):
    """Epochs that are there share a segment; one that is not is alone."""
    b, g = present_bg.shape
    ids = jnp.where(present_bg, 0, 1 + jnp.arange(g))
    return jnp.broadcast_to(
        jnp.reshape(ids, (b, 1, g, *[1] * (len(shape) - 3)), out_sharding=P(BATCH)), shape, out_sharding=P(BATCH)
    )


def _angles(coordinates: Coordinates, patch: Patch, windows, ages_bg, head_dim: int):
    """Cosine and sine for each group of heads, to broadcast against ``[b, t, g, *windows, heads, h / 2]``."""
    pairs = head_dim // 2
    num_lon, num_lat = -(-pairs // 3), -(-(pairs - -(-pairs // 3)) // 2)
    waves = {"lon": num_lon, "lat": num_lat, "lev": pairs - num_lon - num_lat}
    # Radians; log-pressure is stretched so that an atmosphere's depth is like half a circle.
    places = {
        "lev": np.log(_patch_means(coordinates.lev, patch.lev)),
        "lat": np.deg2rad(_patch_means(coordinates.lat, patch.lat)),
        "lon": np.deg2rad(_patch_means(coordinates.lon, patch.lon)),
    }
    shape = tuple(windows[i] * windows[i + 1] for i in (0, 2, 4))
    grids = dict(zip(("lev", "lat", "lon"), np.meshgrid(*places.values(), indexing="ij"), strict=True))
    space = np.concatenate([grids[a][..., None] * 2.0 ** np.arange(waves[a]) for a in ("lon", "lat", "lev")], axis=-1)
    assert space.shape[:3] == shape
    space = space.reshape(1, 1, 1, *windows, 1, pairs)
    year = 2 * np.pi * _patch_means(coordinates.climate_time, patch.climate_time)[:, None] * np.arange(1, pairs + 1)
    year = year.reshape(1, -1, *[1] * 8, pairs)
    b, g = ages_bg.shape
    ages = jnp.mean(jnp.reshape(ages_bg, (b, g // patch.geological_time, -1), out_sharding=P(BATCH)), axis=-1)
    # The longest wave is as long as planets are old, 9 Ga, the others shorter by a factor of sqrt(2) each.
    epochs = ages[..., None].astype(jnp.float32) * (2 * np.pi / 9 * 2.0 ** (np.arange(pairs) / 2))
    epochs = jnp.reshape(epochs, (b, 1, g // patch.geological_time, *[1] * 7, pairs), out_sharding=P(BATCH))

    def turns(angles):
        angles = jnp.asarray(angles, jnp.float32)
        return jnp.cos(angles), jnp.sin(angles)

    return {
        "local": turns(space),
        "space": turns(space),
        "climate_time": turns(year),
        "geological_time": turns(epochs),
    }


def _patch_means(values: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(-1, size).mean(axis=1)


def _token_counts(coordinates: Coordinates, patch: Patch) -> tuple[int, int, int]:
    return len(coordinates.lev) // patch.lev, len(coordinates.lat) // patch.lat, len(coordinates.lon) // patch.lon


def _level_waves(lev: np.ndarray, dtype) -> Float[Array, "z l"]:
    """Where a level is, as sines and cosines of its log-pressure."""
    angles = np.log(np.asarray(lev, np.float64))[:, None] * np.arange(1, _LEVEL_WAVES + 1) * 0.5
    return jnp.asarray(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1), dtype)


def _stem_patch(patch: Patch, observed: bool) -> Patch:
    """The stem's patches: without known fields it works on one level."""
    return patch if observed else msgspec.structs.replace(patch, lev=1)


def _to_patches(x: Float[Array, "b t g z y x c"], patch: Patch) -> Float[Array, "b T G s i"]:
    """Cuts a cube into patches, each of them flattened."""
    b, *sizes, c = x.shape
    counts = [size // p for size, p in zip(sizes, patch.sizes, strict=True)]
    split = [n for pair in zip(counts, patch.sizes, strict=True) for n in pair]
    x = jnp.reshape(x, (b, *split, c), out_sharding=P(BATCH))
    x = jnp.transpose(x, (0, 1, 3, 5, 7, 9, 2, 4, 6, 8, 10, 11))
    t, g, *space = counts
    return jnp.reshape(x, (b, t, g, math.prod(space), patch.volume * c), out_sharding=P(BATCH))


def _from_patches(x: Float[Array, "b T G s i"], patch: Patch, shape) -> Float[Array, "b t g z y x c"]:
    """The cube of ``shape`` that :func:`_to_patches` cut into ``x``."""
    b, *sizes, c = shape
    counts = [size // p for size, p in zip(sizes, patch.sizes, strict=True)]
    x = jnp.reshape(x, (b, *counts, *patch.sizes, c), out_sharding=P(BATCH))
    x = jnp.transpose(x, (0, 1, 6, 2, 7, 3, 8, 4, 9, 5, 10, 11))
    return jnp.reshape(x, shape, out_sharding=P(BATCH))


def _remat(block: nnx.Module, config: CubeViTConfig):
    graphdef, state = nnx.split(block)

    @remat(config.remat)
    def call(state, *args):
        return nnx.merge(graphdef, state)(*args)

    return functools.partial(call, state)
