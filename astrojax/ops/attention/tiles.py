"""How the Triton kernels cut their work: tiles by architecture, width of a head and bytes of a number.

Accumulators and scores fit a thread's 255 registers, by the account of NVIDIA's assembler, but for a few dozen bytes
in some kernels and 200 with float32 heads of 256; shared memory is what a block of threads may have there. They have
not been timed on a device.
"""

from typing import NamedTuple


class Tile(NamedTuple):
    """One kernel's work.

    Attributes:
        queries: rows of queries at a time.
        keys: rows of keys and values at a time.
        warps: groups of 32 threads that share a tile.
        stages: tiles in flight between memory and the tensor cores.
    """

    queries: int
    keys: int
    warps: int
    stages: int


class Tiles(NamedTuple):
    """The tiles of the forward pass and of the two halves of the backward pass."""

    forward: Tile
    backward_keys: Tile
    backward_queries: Tile


# By the width a head is padded to, the first that is not less, and the bytes per number.
# 99 KiB of shared memory: Ampere, Ada and the small Blackwells. The A100 has more, and needs no more.
_SMALL = {
    (64, 2): Tiles(Tile(128, 64, 4, 3), Tile(32, 64, 4, 2), Tile(64, 64, 4, 2)),
    (96, 2): Tiles(Tile(64, 64, 4, 2), Tile(32, 32, 4, 2), Tile(64, 32, 4, 2)),
    (128, 2): Tiles(Tile(128, 64, 8, 2), Tile(64, 64, 8, 2), Tile(64, 64, 8, 2)),
    (256, 2): Tiles(Tile(64, 32, 8, 2), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1)),
    (64, 4): Tiles(Tile(64, 32, 4, 2), Tile(32, 32, 4, 1), Tile(32, 32, 4, 1)),
    (128, 4): Tiles(Tile(32, 32, 4, 1), Tile(32, 16, 4, 1), Tile(32, 16, 4, 1)),
    (256, 4): Tiles(Tile(16, 16, 8, 1), Tile(16, 16, 8, 1), Tile(16, 16, 8, 1)),
}
# 227 KiB: Hopper and the large Blackwells. Their tensor cores take 64 rows for every four warps.
_LARGE = {
    (64, 2): Tiles(Tile(128, 64, 4, 3), Tile(64, 64, 4, 3), Tile(64, 128, 4, 2)),
    (128, 2): Tiles(Tile(128, 128, 8, 2), Tile(64, 128, 8, 2), Tile(128, 64, 8, 2)),
    (256, 2): Tiles(Tile(64, 64, 8, 2), Tile(64, 32, 8, 2), Tile(64, 32, 8, 2)),
}
_LARGE_CAPABILITIES = range(90, 120)


def tiles_for(capability: int, width: int, itemsize: int) -> Tiles:
    """The tiles for a device of compute ``capability`` (86 is 8.6), heads of ``width`` columns and numbers of
    ``itemsize`` bytes."""
    table = _SMALL | _LARGE if capability in _LARGE_CAPABILITIES else _SMALL
    return table[min(key for key in table if key[0] >= width and key[1] == itemsize)]
