"""The vertical axis: what a file's levels are and which a cube shall have."""

import dataclasses
from typing import Literal

import numpy as np

LevelKind = Literal["sigma", "pressure", "height", "hybrid"]


@dataclasses.dataclass(frozen=True, eq=False)
class Levels:
    """Levels from the top of the atmosphere down.

    Attributes:
        kind: ``"sigma"``: pressure over surface pressure (1); ``"pressure"``: Pa; ``"height"``: m above the surface;
            ``"hybrid"``: pressure is ``a + b * surface pressure``.
        centres: ``[lev]``, in the unit of ``kind``; of hybrid levels the pressure in Pa under 1e5 Pa.
        edges: ``[lev + 1]``, their limits, alike.
        a: ``[lev]``, Pa, of hybrid levels.
        b: ``[lev]``, of hybrid levels.
    """

    kind: LevelKind
    centres: np.ndarray
    edges: np.ndarray
    a: np.ndarray | None = None
    b: np.ndarray | None = None

    @classmethod
    def of_centres(cls, kind: LevelKind, centres: np.ndarray) -> "Levels":
        """Levels bounded half-way between ``centres``, which are given in either order; sigma from 0 to 1.

        Raises:
            ValueError: the values repeat or cannot be what ``kind`` says.
        """
        centres = np.sort(np.asarray(centres, np.float64))
        if not centres.size or not np.isfinite(centres).all() or (np.diff(centres) <= 0).any():
            raise ValueError(f"{kind} levels {centres} should be different finite numbers")
        low, high = {"sigma": (0.0, 1.0), "pressure": (0.0, np.inf), "height": (0.0, np.inf)}[kind]
        if centres[0] < low or centres[-1] > high or (kind != "height" and centres[0] == 0):
            raise ValueError(f"{kind} levels {centres} should lie between {low:g} and {high:g}")
        middle = (centres[1:] + centres[:-1]) / 2
        if kind == "sigma":
            edges = np.concatenate([[0.0], middle, [1.0]])
        else:
            first = 2 * centres[0] - middle[0] if middle.size else centres[0] / 2
            last = 2 * centres[-1] - middle[-1] if middle.size else centres[-1] * 1.5
            edges = np.concatenate([[max(first, 0.0)], middle, [last]])
        return cls(kind, centres, edges) if kind != "height" else cls(kind, centres[::-1].copy(), edges[::-1].copy())

    def __len__(self) -> int:
        return len(self.centres)

    def same_as(self, other: "Levels") -> bool:
        """Whether both are the same to the precision of a float32."""
        names = ["centres", "edges", *(["a", "b"] if self.kind == "hybrid" else [])]
        return (
            self.kind == other.kind
            and len(self) == len(other)
            and all(np.allclose(getattr(self, n), getattr(other, n), rtol=1e-6, atol=1e-9) for n in names)
        )
