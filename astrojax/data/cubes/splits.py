"""Which planets a model learns from.

The split is by planet. Epochs of a planet share its rotation, surface and star, and months of a year its climate: a
model that has seen one of them has half seen the others, so a split by either would measure memory.

The rule: planets are sorted by stratum, then by the SHA-256 of their name. Strata are whether the planet is tidally
locked and what its surface is (all ocean, mixed, all land). Of every five planets in that order the third is held out;
of every ten the fifth is for validation; all others are for training. Another ``fold`` begins counting elsewhere, so
that five of them hold each planet out once. Names alone decide within a stratum, so the split
is the same on every machine, and strata keep each kind of planet in every part in its share, which chance would not do
with a score of planets.

Planets that are for evaluation only are converted into a store of their own and never enter this one.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Literal

SurfaceKind = Literal["aqua", "mixed", "land"]
_SURFACES: tuple[SurfaceKind, ...] = ("aqua", "mixed", "land")


@dataclasses.dataclass(frozen=True)
class Planet:
    """What the split depends on.

    Attributes:
        name: unique.
        tidally_locked: whether one side always faces the star.
        land_fraction: area mean of ``sftlf``.
    """

    name: str
    tidally_locked: bool
    land_fraction: float

    @property
    def surface(self) -> SurfaceKind:
        return "aqua" if self.land_fraction < 0.01 else "land" if self.land_fraction > 0.99 else "mixed"


def split_planets(planets: Sequence[Planet], fold: int = 2) -> dict[str, tuple[str, ...]]:
    """``train``, ``validation`` and ``heldout``, the names of each one's planets; see the module's rule."""
    order = sorted(
        planets,
        key=lambda p: (p.tidally_locked, _SURFACES.index(p.surface), hashlib.sha256(p.name.encode()).hexdigest()),
    )
    parts: dict[str, list[str]] = {"train": [], "validation": [], "heldout": []}
    for place, planet in enumerate(order):
        part = "heldout" if place % 5 == fold else "validation" if place % 10 == (fold + 2) % 10 else "train"
        parts[part].append(planet.name)
    return {name: tuple(names) for name, names in parts.items()}
