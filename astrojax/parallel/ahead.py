"""Compiling programs for devices that are not attached (:func:`astrojax.parallel.topology.devices_of`)."""

import contextlib

import jax
from jax.experimental.compilation_cache import compilation_cache

from astrojax.parallel.mesh import backend

# Without a device there is nothing to time kernels on, and Triton's products exist only once they have been timed.
_WITHOUT_DEVICE = {"gpu": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}}


def compile_ahead(traced: jax.stages.Traced, **options) -> jax.stages.Compiled:
    """Compiles what was traced under the current mesh of absent devices, with XLA ``options``."""
    with _no_compilation_cache():
        return traced.lower().compile(compiler_options=options | _WITHOUT_DEVICE.get(backend(), {}))


@contextlib.contextmanager
def _no_compilation_cache():
    """What was compiled without its device cannot be read back from JAX's cache on disk."""
    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # It looks at the setting once only.
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
