"""The NVIDIA GPU a program is traced for."""

from jax.experimental.pallas import triton as plgpu

AMPERE = 80  # Compute capability 8.0: the first with bfloat16 and asynchronous copies.


def compute_capability() -> int:
    """86 for 8.6; 0 where the program is traced for no NVIDIA GPU."""
    try:
        return plgpu.get_gpu_info().compute_capability
    except ValueError:
        return 0


def below_ampere() -> str | None:
    """Why Triton kernels made for Ampere cannot be part of the program, if they cannot."""
    capability = compute_capability()
    if not capability:
        return "the program is not traced for an NVIDIA GPU"
    if capability < AMPERE:
        return f"it needs compute capability 8.0 (Ampere), the device has {capability / 10}"
    return None
