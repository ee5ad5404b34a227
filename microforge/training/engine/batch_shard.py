"""The rows of a step's batch that one process or micro-batch works on.

Every process draws the whole batch of a step from generators seeded by the step's number and then keeps its own rows, so
two processes, or two accumulated micro-batches, compute the same as one process with twice the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from microforge.errors import SpecError


@dataclass(frozen=True)
class BatchShard:
    """Piece ``index`` of ``count`` equal pieces of a batch."""

    index: int = 0
    count: int = 1

    def rows(self, total: int) -> slice:
        """The rows of this piece in a batch of ``total`` rows.

        Raises:
            SpecError: when ``total`` does not divide into ``count`` pieces.
        """
        if total % self.count:
            raise SpecError(
                f"a batch of {total} does not divide into {self.count} pieces; choose a multiple of {self.count}"
            )
        each = total // self.count
        return slice(self.index * each, (self.index + 1) * each)


WHOLE = BatchShard()
