"""Molecules as tokens: atom by atom, each followed by its bonds to atoms before it, and which tokens may follow.

``C, C, bond to 1 back, O, double bond to 1 back, end`` is acetaldehyde. The bonds of an atom come nearest first. In
this notation, unlike in SMILES, every sequence of permitted tokens is a molecule: connected, and with no atom bound
more often than its valence allows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from astrojax.chemistry.valence import AtomType

MAX_BOND_ORDER = 3
END = 0


class Notation(NamedTuple):
    """The tokens of molecules: 0 ends one, then the types of atoms, then bonds by distance back and order.

    Attributes:
        num_types: room for so many types of atoms.
        max_atoms: in a molecule.
        max_bonds: likewise.
    """

    num_types: int
    max_atoms: int
    max_bonds: int

    @property
    def num_tokens(self) -> int:
        return 1 + self.num_types + MAX_BOND_ORDER * (self.max_atoms - 1)

    @property
    def length(self) -> int:
        """Tokens of the longest molecule, its end included."""
        return self.max_atoms + self.max_bonds + 1

    def write(self, kinds: np.ndarray, bonds: np.ndarray, orders: np.ndarray) -> np.ndarray:
        """The tokens of a molecule, ``[length]`` int32, filled up with its end.

        Args:
            kinds: ``[n]``, the type of each atom by its place in the list of types.
            bonds: ``[m, 2]``, positions of two atoms, the smaller first.
            orders: ``[m]``.

        Raises:
            ValueError: it is larger than the notation has room for.
        """
        if len(kinds) > self.max_atoms or len(bonds) > self.max_bonds:
            raise ValueError(f"more than {self.max_atoms} atoms or {self.max_bonds} bonds")
        tokens, at = [], {i: [] for i in range(len(kinds))}
        for (i, j), order in zip(bonds.tolist(), orders.tolist(), strict=True):
            at[j].append((j - i, order))
        for i, kind in enumerate(kinds.tolist()):
            tokens.append(1 + kind)
            tokens += [1 + self.num_types + MAX_BOND_ORDER * (d - 1) + order - 1 for d, order in sorted(at[i])]
        return np.pad(np.asarray(tokens, np.int32), (0, self.length - len(tokens)))

    def read(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """``(kinds, bonds, orders)`` as :meth:`write` takes them; None where tokens are no molecule: a bond to no
        atom, twice to one, or an atom without any."""
        kinds, found = [], {}
        for token in tokens.tolist():
            if token == END:
                break
            if token <= self.num_types:
                kinds.append(token - 1)
                continue
            back, order = divmod(token - 1 - self.num_types, MAX_BOND_ORDER)
            pair = (len(kinds) - 2 - back, len(kinds) - 1)
            if pair[0] < 0 or pair in found:
                return None
            found[pair] = order + 1
        if not kinds or len({j for _, j in found}) < len(kinds) - 1:
            return None
        pairs = sorted(found)
        bonds = np.asarray(pairs, np.int32).reshape(-1, 2)
        return np.asarray(kinds, np.int32), bonds, np.asarray([found[pair] for pair in pairs], np.int32)

    def permitted(self, tokens: Int[Array, "s t"], valences: Int[Array, "k"]) -> Bool[Array, "s t v"]:
        """Which tokens may stand at each place, given those before it.

        Args:
            tokens: of molecules, or their beginnings.
            valences: the largest sum of bond orders of each type of atom; 0 where there is no such type.
        """
        length, atoms, places = self.length, self.max_atoms, jnp.arange(tokens.shape[1])
        tokens = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]  # What stands at each place is not known there.
        bond = tokens - 1 - self.num_types
        is_atom, is_bond = (tokens > 0) & (bond < 0), bond >= 0
        back = jnp.where(is_bond, bond // MAX_BOND_ORDER + 1, 0)
        order = jnp.where(is_bond, bond % MAX_BOND_ORDER + 1, 0)
        count = jnp.cumsum(is_atom, axis=1)
        here = jax.nn.one_hot(count - 1, atoms, dtype=jnp.int32)
        there = jax.nn.one_hot(count - 1 - back, atoms, dtype=jnp.int32)
        kind = jax.nn.one_hot(tokens - 1, self.num_types, dtype=jnp.int32)
        valence = jnp.einsum("stk,k->st", kind, valences)
        change = here * (valence - order)[..., None] - there * order[..., None]
        open_sta = jnp.cumsum(change, axis=1)
        left = jnp.sum(open_sta * here, axis=-1)
        # The atoms before this one, nearest first: the last ones of those there are.
        distance = jnp.arange(1, atoms)
        behind = jax.nn.one_hot(count[..., None] - 1 - distance, atoms, dtype=jnp.int32)
        left_behind = jnp.einsum("stda,sta->std", behind, open_sta)
        orders = jnp.arange(1, MAX_BOND_ORDER + 1)
        free = jnp.minimum(left[..., None], left_behind)[..., None] >= orders
        room = places < length - 1
        bonds = free & (distance > back[..., None])[..., None] & room[:, None, None]
        # An atom needs a bond, and a place after it for the end.
        bound = is_bond | (count == 1)
        more = bound & (jnp.max(open_sta, axis=-1) > 0) & (count < atoms) & (places < length - 2)
        another = ((count == 0) | more)[..., None] & (valences > 0)
        ended = (tokens == END) & (places > 0)
        going = ~ended[..., None]
        return jnp.concatenate(
            [
                (ended | (bound & (count > 0)))[..., None],
                another & going,
                jnp.reshape(bonds, (*bonds.shape[:2], -1)) & going,
            ],
            axis=-1,
        )


def kinds_of(atoms: tuple[AtomType, ...], types: tuple[AtomType, ...]) -> np.ndarray:
    """The place of each atom's type in ``types``, int32."""
    return np.asarray([types.index(atom) for atom in atoms], np.int32)
