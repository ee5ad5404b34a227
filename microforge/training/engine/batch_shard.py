"""Which rows of a step's batch one process works on.

A step draws its whole batch, of every process and micro-batch, from generators seeded by the step's number;
each piece then keeps its own rows. So two processes, or two accumulated micro-batches, see exactly what one
process with the doubled batch would.
"""

from __future__ import annotations

from dataclasses import dataclass

from microforge.errors import SpecError


@dataclass(frozen=True)
class Shard:
    """Piece ``index`` of ``count`` equal pieces of a batch."""

    index: int = 0
    count: int = 1

    def rows(self, total: int) -> slice:
        """The rows of this piece in a batch of ``total``.

        Raises:
            SpecError: when ``total`` does not divide into ``count`` pieces.
        """
        if total % self.count:
            raise SpecError(
                f"a batch of {total} does not divide into {self.count} pieces; choose a multiple of {self.count}"
            )
        each = total // self.count
        return slice(self.index * each, (self.index + 1) * each)


WHOLE = Shard()
