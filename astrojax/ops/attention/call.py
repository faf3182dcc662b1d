"""What an implementation of attention is asked for, checked and complete."""

from typing import NamedTuple

from jaxtyping import Array, Float

from astrojax.ops.attention.visibility import Layout, Reach


class Call(NamedTuple):
    """The arguments of :func:`astrojax.ops.attention.attention` after its checks.

    Attributes:
        query: queries.
        key: keys.
        value: values.
        reach: the static part of who reads whom.
        layout: the part of it that is data.
        mask: what else forbids or biases pairs, with the axes of the scores: ``[#b, #n, #t, #s]``.
        scale: factor on the scores.
        interpret: run a kernel on the CPU, operation by operation.
    """

    query: Float[Array, "b t n h"]
    key: Float[Array, "b s k h"]
    value: Float[Array, "b s k h"]
    reach: Reach
    layout: Layout
    mask: Array | None
    scale: float
    interpret: bool

    @property
    def never_empty(self) -> bool:
        """Whether every query is known to read a key: itself."""
        own_place = self.layout.positions is None and self.query.shape[1] <= self.key.shape[1]
        return self.mask is None and own_place and self.layout.query_segments is self.layout.key_segments
