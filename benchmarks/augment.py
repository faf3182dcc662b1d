"""Augmentation of a climate cube beside the same effects one after another, in plain JAX and in PyTorch.

python -m benchmarks.augment        # the PyTorch side needs: pip install torch

One process, one cube, float32, every effect on every sample: the most work the fused version can have, while the steps
cost the same whatever is drawn. First all sides apply the same draws without noise and must agree. Then they take
turns; the first calls of a turn are not timed, and freed memory stays with the process, so that no side is charged for
getting its memory anew from the system, which on a virtual machine can take longer than the work. Ratios are medians
over the calls. The floor is one pass: each value read, negated and written back, in the same turns. Extra memory is
what the compiler says for the compiled side; for the others it is by how much the process grows in their first call.

On a GPU the same command times the kernel there (and PyTorch's CUDA side); extra memory is then known of the compiled
side alone.
"""

import argparse
import ctypes
import os
import statistics
import time
from pathlib import Path

from astrojax.parallel.host import restart_with_huge_pages

# glibc keeps what is freed.
_KEEP_MEMORY = {"mmap_max": 0, "trim_threshold": 2**36, "top_pad": 2**26}

NAMES = (
    *("air_temperature", "specific_humidity", "eastward_wind", "northward_wind"),
    *("lagrangian_tendency_of_air_pressure", "cloud_area_fraction_in_atmosphere_layer", "relative_humidity"),
    *("geopotential", "surface_temperature", "surface_air_pressure"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--variables", type=int, default=10, help=f"at most {len(NAMES)}")
    parser.add_argument("--climate-time", type=int, default=12, help="an even number")
    parser.add_argument("--geological-time", type=int, default=4)
    parser.add_argument("--lev", type=int, default=10)
    parser.add_argument("--lat", type=int, default=64)
    parser.add_argument("--lon", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--calls", type=int, default=3, help="timed calls per turn")
    parser.add_argument("--untimed", type=int, default=3, help="calls before them")
    flags = parser.parse_args()

    import jax
    import numpy as np

    from astrojax.ops.augment import VARIABLES, Policy
    from astrojax.parallel.mesh import MeshConfig, make_mesh
    from benchmarks.record import save_result

    variables = [VARIABLES[name] for name in NAMES[: flags.variables]]
    shape = (flags.batch, len(variables), flags.climate_time, flags.geological_time, flags.lev, flags.lat, flags.lon)
    cube = np.random.default_rng(0).uniform(0.5, 1.5, shape).astype(np.float32)
    always = Policy(noise=1, smooth=1, roll=1, mirror=1)
    versions, device = {"jax": jax.__version__}, jax.devices()[0]
    with jax.set_mesh(make_mesh(MeshConfig(), [device])):
        sides = {
            "astrojax": Astrojax(cube, variables, always),
            "astrojax_default_policy": Astrojax(cube, variables, Policy()),
            "jax_steps": JaxSteps(cube, variables),
            "torch_steps": None,
            "one_pass": OnePass(cube),
        }
        try:
            import torch

            sides["torch_steps"] = TorchSteps(cube, variables)
            versions["torch"] = torch.__version__
        except ImportError:
            print("PyTorch is not installed: its side is left out")
            del sides["torch_steps"]
        check(sides, cube, variables, always)
        draws = [draws_of(always, shape, seed) for seed in range(flags.untimed + flags.calls)]
        seconds = {name: [] for name in sides}
        extra = {}
        for name, side in sides.items():
            compiled = getattr(side, "compiled_extra_bytes", None)
            on_host = device.platform == "cpu"  # How the process grows says nothing of a device's memory.
            extra[name] = compiled if compiled is not None else extra_bytes(side, draws[0]) if on_host else None
        for _ in range(flags.rounds):
            for name, side in sides.items():
                for d in draws[: flags.untimed]:
                    side.step(d)
                for d in draws[flags.untimed :]:
                    began = time.perf_counter()
                    side.step(d)
                    seconds[name].append(time.perf_counter() - began)
    malloc = os.environ.get("GLIBC_TUNABLES")
    figures = {"malloc": malloc, "shape": shape, "dtype": "float32", "cube_bytes": cube.nbytes, "sides": {}}
    print(f"{'x'.join(map(str, shape))} float32, {cube.nbytes / 1e6:.0f} MB; one read and one write move twice that")
    for name in sides:
        taken = statistics.median(seconds[name])
        over = statistics.median(t / o for t, o in zip(seconds[name], seconds["astrojax"], strict=True))
        share = statistics.median(p / t for t, p in zip(seconds[name], seconds["one_pass"], strict=True))
        figures["sides"][name] = {
            "seconds": round(taken, 4),
            "seconds_over_astrojax": round(over, 2),
            "gb_per_second": round(2 * cube.nbytes / taken / 1e9, 2),
            "share_of_one_pass_speed": round(share, 3),
            "extra_bytes": extra[name],
        }
        memory = "" if extra[name] is None else f"extra {extra[name] / 1e6:8.1f} MB"
        print(
            f"{name:>24}: {taken * 1e3:8.1f} ms   time over astrojax's {over:6.2f}   "
            f"{2 * cube.nbytes / taken / 1e9:6.1f} GB/s   {share:6.1%} of one pass   {memory}"
        )
    faster = min(v["seconds_over_astrojax"] for n, v in figures["sides"].items() if n.endswith("_steps"))
    figures["speedup_over_the_faster_steps"] = faster
    name = None if device.platform == "cpu" else device.device_kind
    print(
        f"{faster:.2f} times as fast as the faster steps; written to", save_result("augment", figures, versions, name)
    )


def draws_of(policy, shape, seed):
    """The draws of one step, as NumPy arrays."""
    import jax
    import numpy as np

    from astrojax.ops.augment import draw

    yes = np.ones(shape[0], bool)
    key = jax.random.key(seed)
    return jax.device_get(draw(key, policy, rotating=yes, seasons=yes, num_climate_time=shape[2]))


def check(sides, cube, variables, policy) -> None:
    """Stops if the sides do not move and smooth alike."""
    import numpy as np

    from astrojax.ops.augment import augment

    draws = draws_of(policy, cube.shape, 0)
    draws = draws._replace(noise=np.zeros(cube.shape[0], bool))
    expected = np.asarray(augment(sides["astrojax"].put(cube), draws, variables))
    for name, side in sides.items():
        if name.endswith("_steps"):
            np.testing.assert_allclose(np.asarray(side.apply(draws)), expected, rtol=1e-5, err_msg=name)


def extra_bytes(side, draws) -> int | None:
    """How far the process grows beyond its size before the call."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak so far.
        before = _status("VmRSS")
        side.step(draws)
        return _status("VmHWM") - before
    except (OSError, AttributeError):  # Neither Linux nor glibc.
        return None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


class Astrojax:
    """The product: the draws are made in the same program, and the cube is donated."""

    def __init__(self, cube, variables, policy):
        import jax
        import jax.numpy as jnp

        from astrojax.ops.augment import augment, draw

        b, num_ct = cube.shape[0], cube.shape[2]

        def step(cube, key):
            yes = jnp.ones(b, bool)
            draws = draw(key, policy, rotating=yes, seasons=yes, num_climate_time=num_ct)
            return augment(cube, draws, variables)

        self.cube, self.key = self.put(cube), jax.random.key(0)
        self.compiled = jax.jit(step, donate_argnums=0).lower(self.cube, self.key).compile()
        memory = self.compiled.memory_analysis()
        self.compiled_extra_bytes = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes

    def put(self, cube):
        import jax

        return jax.device_put(cube.copy())

    def step(self, draws):
        import jax

        self.key = jax.random.fold_in(self.key, 0)
        self.cube = self.compiled(self.cube, self.key).block_until_ready()


class OnePass:
    """The floor: every value is read and written once, in place."""

    def __init__(self, cube):
        import jax

        self.cube = jax.device_put(cube.copy())
        self.negate = jax.jit(lambda x: -x, donate_argnums=0).lower(self.cube).compile()
        self.compiled_extra_bytes = self.negate.memory_analysis().temp_size_in_bytes

    def step(self, draws):
        self.cube = self.negate(self.cube).block_until_ready()


class JaxSteps:
    """One operation on the whole array after the other, as written in a notebook."""

    def __init__(self, cube, variables):
        import jax
        import jax.numpy as jnp

        self.x, self.key = jnp.asarray(cube), jax.random.key(0)
        self.constants = tuple(jnp.asarray(c) for c in _constants(variables))

    def apply(self, draws):
        import jax
        import jax.numpy as jnp

        free, sign, absolute, relative, least, most = self.constants
        x, (turn, mirrored, half_year, w, noisy) = self.x, map(_per_sample, draws[:5])
        x = x + free * w * (jnp.mean(x, axis=3, keepdims=True) - x)
        x = jnp.where(mirrored, sign * jnp.flip(x, axis=5), x)
        x = jnp.where(half_year, jnp.roll(x, x.shape[2] // 2, axis=2), x)
        x = jnp.stack([jnp.roll(one, int(t * x.shape[-1]), axis=-1) for one, t in zip(x, turn.ravel(), strict=True)])
        if not noisy.any():
            return x
        self.key, key = jax.random.split(self.key)
        noise = jax.random.normal(key, x.shape)
        x = x + noisy * noise * (absolute + relative * x)
        return jnp.clip(x, least, most)

    def step(self, draws):
        self.apply(draws).block_until_ready()


class TorchSteps:
    """The same in PyTorch, on the device that JAX uses."""

    def __init__(self, cube, variables):
        import jax
        import torch

        gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
        self.device = torch.device("cuda" if gpu else "cpu")
        self.x = torch.from_numpy(cube).to(self.device)
        self.constants = tuple(torch.from_numpy(c).to(self.device) for c in _constants(variables))

    def apply(self, draws):
        import torch

        free, sign, absolute, relative, least, most = self.constants
        x, per_sample = self.x, [torch.from_numpy(_per_sample(d)).to(self.device) for d in draws[:5]]
        turn, mirrored, half_year, w, noisy = per_sample
        x = x + free * w * (x.mean(dim=3, keepdim=True) - x)
        x = torch.where(mirrored, sign * x.flip(5), x)
        x = torch.where(half_year, x.roll(x.shape[2] // 2, 2), x)
        x = torch.stack([one.roll(int(t * x.shape[-1]), -1) for one, t in zip(x, turn.flatten(), strict=True)])
        if not noisy.any():
            return x.cpu()
        x = x + noisy * torch.randn_like(x) * (absolute + relative * x)
        return x.clamp(least, most)

    def step(self, draws):
        import torch

        self.apply(draws)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _per_sample(values):
    return values.reshape(-1, 1, 1, 1, 1, 1, 1).copy()


def _constants(variables):
    """Per variable: free of smoothing or not, sign in the mirror, absolute and relative noise, bounds."""
    import numpy as np

    rows = [
        (
            v.noise != "fixed",
            v.mirror_sign,
            v.std * (v.noise == "additive"),
            v.std * (v.noise == "multiplicative"),
            0.0 if v.noise == "multiplicative" else -np.inf,
            v.maximum,
        )
        for v in variables
    ]
    return [np.asarray(c, np.float32).reshape(1, -1, 1, 1, 1, 1, 1) for c in zip(*rows, strict=True)]


if __name__ == "__main__":
    restart_with_huge_pages(**_KEEP_MEMORY)
    main()
