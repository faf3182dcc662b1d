"""Accelerators that programs can be compiled for without having them, and what is known of each.

Memory, clocks and caches of the NVIDIA devices are what the driver reports for them; peak rates and bandwidths are the
vendors' figures for dense bfloat16 with float32 accumulation (NVIDIA: RTX A5000 datasheet, Ada whitepaper, A100, H100
and H200 datasheets; Google: Cloud TPU system architecture pages for v5e, v5p and v6e). ``links`` is what one device can
send to the others while it receives as much: PCIe 4.0 x16 where cards have no NVLink.
"""

import dataclasses
import importlib.util
import math
import os

from astrojax.errors import RequestError

GIB, GB, TERA = 2**30, 10**9, 10**12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """What XLA wants to know of an NVIDIA device (its ``GpuTargetConfigProto``)."""

    kind: str  # A name in JAX's own table of devices, for its kernel compilers.
    compute_capability: tuple[int, int]
    cores: int
    float_units_per_core: int
    threads_per_core: int
    shared_memory_per_core: int
    shared_memory_per_block: int
    l2_cache: int
    clock_ghz: float

    def target_config(self, memory: int, bandwidth: float) -> str:
        major, minor = self.compute_capability
        feature = "feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
        return f"""
            gpu_device_info {{
              threads_per_block_limit: 1024 threads_per_warp: 32
              shared_memory_per_block: 49152 shared_memory_per_block_optin: {self.shared_memory_per_block}
              shared_memory_per_core: {self.shared_memory_per_core} threads_per_core_limit: {self.threads_per_core}
              core_count: {self.cores} fpus_per_core: {self.float_units_per_core}
              block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
              memory_bandwidth: {round(bandwidth)} l2_cache_size: {self.l2_cache} clock_rate_ghz: {self.clock_ghz}
              device_memory_size: {memory} registers_per_core_limit: 65536 registers_per_block_limit: 65536
              cuda_compute_capability {{ major: {major} minor: {minor} {feature} }}
            }}
            platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{self.kind}"
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A device and how it is joined to others of its kind.

    Attributes:
        memory: bytes a program could have if nothing else were on the device.
        reserve: bytes of them that the driver, the collectives library and the libraries' workspaces take.
        bandwidth: bytes per second of the device's memory.
        flops: dense bfloat16 operations per second.
        links: bytes per second between devices, each way.
        gpu: for NVIDIA devices.
        tpu: for TPUs, the generation's name in topology names and the number of its torus's dimensions.
    """

    memory: int
    reserve: int = 0
    bandwidth: float
    flops: float
    links: float
    gpu: Gpu | None = None
    tpu: tuple[str, int] | None = None


_A100 = Gpu(
    kind="NVIDIA A100",
    compute_capability=(8, 0),
    cores=108,
    float_units_per_core=64,
    threads_per_core=2048,
    shared_memory_per_core=167_936,
    shared_memory_per_block=166_912,
    l2_cache=40 * 2**20,
    clock_ghz=1.41,
)
_HOPPER = Gpu(
    kind="NVIDIA H100",
    compute_capability=(9, 0),
    cores=132,
    float_units_per_core=128,
    threads_per_core=2048,
    shared_memory_per_core=233_472,
    shared_memory_per_block=232_448,
    l2_cache=50 * 2**20,
    clock_ghz=1.98,
)

ACCELERATORS = {
    "rtx-a5000": Accelerator(
        memory=25_757_220_864,
        reserve=GIB,
        bandwidth=768 * GB,
        flops=111.1 * TERA,
        links=31.5 * GB,
        gpu=Gpu(
            kind="NVIDIA A10",
            compute_capability=(8, 6),
            cores=64,
            float_units_per_core=128,
            threads_per_core=1536,
            shared_memory_per_core=102_400,
            shared_memory_per_block=101_376,
            l2_cache=6 * 2**20,
            clock_ghz=1.695,
        ),
    ),
    "rtx-4090": Accelerator(
        memory=25_757_220_864,
        reserve=GIB,
        bandwidth=1008 * GB,
        flops=165.2 * TERA,
        links=31.5 * GB,
        gpu=Gpu(
            kind="NVIDIA GeForce RTX 4090",
            compute_capability=(8, 9),
            cores=128,
            float_units_per_core=128,
            threads_per_core=1536,
            shared_memory_per_core=102_400,
            shared_memory_per_block=101_376,
            l2_cache=72 * 2**20,
            clock_ghz=2.52,
        ),
    ),
    "a100-40": Accelerator(
        memory=42_331_013_120, reserve=GIB, bandwidth=1555 * GB, flops=312 * TERA, links=300 * GB, gpu=_A100
    ),
    "a100-80": Accelerator(
        memory=85_100_068_864, reserve=GIB, bandwidth=2039 * GB, flops=312 * TERA, links=300 * GB, gpu=_A100
    ),
    "h100": Accelerator(
        memory=84_942_979_072, reserve=2 * GIB, bandwidth=3352 * GB, flops=989.4 * TERA, links=450 * GB, gpu=_HOPPER
    ),
    "h200": Accelerator(
        memory=151_397_597_184,
        reserve=2 * GIB,
        bandwidth=4800 * GB,
        flops=989.4 * TERA,
        links=450 * GB,
        gpu=dataclasses.replace(_HOPPER, kind="NVIDIA H200"),
    ),
    # What the TPU compiler says a program may have.
    "tpu-v5e": Accelerator(
        memory=round(15.75 * GIB), bandwidth=819 * GB, flops=197 * TERA, links=200 * GB, tpu=("v5e", 2)
    ),
    "tpu-v5p": Accelerator(
        memory=round(95.74 * GIB), bandwidth=2765 * GB, flops=459 * TERA, links=600 * GB, tpu=("v5p", 3)
    ),
    "tpu-v6e": Accelerator(
        memory=round(31.25 * GIB), bandwidth=1640 * GB, flops=918 * TERA, links=400 * GB, tpu=("v6e", 2)
    ),
}

GPUS_PER_HOST = 8

_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v6e-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def parse_topology(text: str) -> tuple[str, int]:
    """``"rtx-a5000:2"`` as ``("rtx-a5000", 2)``.

    Raises:
        RequestError: the name is unknown, or the count is not one such devices come in.
    """
    name, _, count = text.partition(":")
    if name != "cpu" and name not in ACCELERATORS:
        raise RequestError(f"--topology: unknown accelerator {name!r}; known: {', '.join([*ACCELERATORS, 'cpu'])}")
    if not count.isdecimal() or int(count) < 1:
        raise RequestError(f"--topology: {text!r} should be NAME:COUNT, such as {name}:2")
    if name.startswith("tpu") and not math.log2(int(count)).is_integer():
        raise RequestError(f"--topology: TPUs come in powers of two, not in {count}")
    return name, int(count)


def name_of(device) -> str:
    """The table's name of an attached device, or ``"cpu"`` for one it does not hold."""
    kind = device.device_kind.lower().replace("tpu v5 lite", "tpu v5e").replace("tpu v6 lite", "tpu v6e")
    kind = "tpu v5p" if kind == "tpu v5" else kind
    same = [name for name in ACCELERATORS if all(word in kind for word in name.split("-"))]
    return same[0] if same else "cpu"


def prepare_environment(name: str, count: int) -> None:
    """Sets what JAX and the compilers' plug-ins read when they start. Call before JAX is imported.

    Raises:
        RequestError: the plug-in is not installed.
    """
    # No driver is looked for, and what the compilers say of a program that does not fit is ours to say.
    os.environ |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if name == "cpu":
        os.environ["JAX_NUM_CPU_DEVICES"] = str(count)
        return
    if ACCELERATORS[name].tpu:
        needed = {"libtpu": "libtpu"}
    else:
        needed = {"jax_plugins.xla_cuda12": "jax-cuda12-plugin", "nvidia.cuda_nvcc": "nvidia-cuda-nvcc-cu12"}
    missing = [package for module, package in needed.items() if not _installed(module)]
    if missing:
        raise RequestError(
            f"--topology {name}: compiling for it needs {' and '.join(missing)} (on Linux, x86-64): "
            "pip install -c requirements.lock -e '.[aot]'"
        )


def devices_of(name: str, count: int) -> list:
    """``count`` devices that can be compiled for and not run on.

    Raises:
        RequestError: they do not come in that number.
    """
    import jax
    from jax.experimental import topologies

    if name == "cpu":
        return jax.devices("cpu")[:count]
    accelerator = ACCELERATORS[name]
    if accelerator.gpu:
        hosts = -(-count // GPUS_PER_HOST)
        if count % hosts:
            raise RequestError(f"--topology: {name} comes in hosts of {GPUS_PER_HOST}: not in {count}")
        target = accelerator.gpu.target_config(accelerator.memory, accelerator.bandwidth)
        return topologies.get_topology_desc(
            "", platform="cuda", topology=f"1x{hosts}x{count // hosts}", target_config=target
        ).devices
    # The TPU compiler asks the cloud where it runs unless it is told, and lets no other process use it meanwhile.
    for variable, value in _TPU_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    generation, dimensions = accelerator.tpu
    shape = torus(count, dimensions)
    try:
        return topologies.get_topology_desc(f"{generation}:{shape}", platform="tpu").devices
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise RequestError(f"--topology: no {name} of {count} ({shape}): {reason}") from error


def torus(count: int, dimensions: int) -> str:
    """The flattest box of ``count`` chips with powers of two as sides: 8 as ``"2x4"``, 256 as ``"4x8x8"``."""
    sides = [1] * dimensions
    for _ in range(round(math.log2(count))):
        # The last of the shortest grows, so that the sides stay sorted.
        shortest = max(i for i, side in enumerate(sides) if side == min(sides))
        sides[shortest] *= 2
    return "x".join(str(side) for side in sides)


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
