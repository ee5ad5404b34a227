"""Several image sources as one: every batch holds a fixed share of each.

Letters: B images, H W image height and width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microforge.data.edit_examples import Triples, TripleSource
from microforge.data.image_source import ImageSource
from microforge.data.order import PART, ExamplePlan, Examples
from microforge.data.skipped import Skipped

#: Multiples of it fall evenly into [0, 1), however many are taken (Kronecker's sequence).
GOLDEN = (5.0**0.5 - 1.0) / 2.0


@dataclass(frozen=True)
class Part:
    """One source of a mixture and its weight against the others."""

    source: ImageSource
    weight: float


class MixedSource:
    """An ``ImageSource`` of several; ``parts`` have positive weights.

    Image n of a run is made by the source on whose part of [0, 1) the fraction of n times the golden ratio falls: of any
    number of images in a row each source makes its share, but for one or two.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.name = " + ".join(part.source.name for part in self.parts)
        total = sum(part.weight for part in self.parts)
        ends = [
            sum(part.weight for part in self.parts[: index + 1]) / total for index in range(len(self.parts))
        ]
        self._ends = np.array(ends[:-1])

    @property
    def fingerprint(self) -> str:
        made = repr([(part.source.fingerprint, part.weight) for part in self.parts])
        return f"mixture {hashlib.sha256(made.encode()).hexdigest()}"

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return tuple(item for part in self.parts for item in part.source.skipped)

    def describe(self) -> str:
        total = sum(part.weight for part in self.parts)
        return "; ".join(f"{part.weight / total:.0%} {part.source.describe()}" for part in self.parts)

    def prepare(self, size: tuple[int, int]) -> None:
        for part in self.parts:
            part.source.prepare(size)

    def images(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None = None, rows: slice = slice(None),
    ) -> Tensor:  # fmt: skip
        """The first source's images first."""
        return self._images("images", seed, step, count, size, device, crop, rows)

    def images_with_alpha(
        self, seed: int, step: int, count: int, size: tuple[int, int], device: str,
        crop: tuple[int, int] | None = None, rows: slice = slice(None),
    ) -> Tensor:  # fmt: skip
        return self._images("images_with_alpha", seed, step, count, size, device, crop, rows)

    def _images(
        self, method: Literal["images", "images_with_alpha"], seed: int, step: int, count: int,
        size: tuple[int, int], device: str, crop: tuple[int, int] | None, rows: slice,
    ) -> Tensor:  # fmt: skip
        start, stop, _ = rows.indices(count)
        made, first = [], 0
        for part, number in zip(self.parts, self.shares(step, count), strict=True):
            low, high = max(start - first, 0), min(stop - first, number)
            if low < high:
                make = getattr(part.source, method)
                made.append(make(seed, step, number, size, device, crop, slice(low, high)))
            first += number
        return torch.cat(made)

    def shares(self, step: int, count: int) -> list[int]:
        """How many of the ``count`` images of step ``step`` each source makes."""
        owners = self.owners(step, count)
        return [int(np.count_nonzero(owners == index)) for index in range(len(self.parts))]

    def owners(self, step: int, count: int) -> NDArray[np.int64]:
        """The index of the source of each image of step ``step``, (count,), in the order of the sequence."""
        numbers = np.arange(step * count, (step + 1) * count)
        owners: NDArray[np.int64] = np.searchsorted(self._ends, numbers * GOLDEN % 1.0, side="right")
        return owners

    def sheet(self, count: int, size: tuple[int, int], device: str) -> Tensor:
        """Some of each, at least one."""
        shares = [max(1, number) for number in self.shares(0, count)]
        shares[shares.index(max(shares))] -= sum(shares) - count
        sheets = [
            part.source.sheet(number, size, device)
            for part, number in zip(self.parts, shares, strict=True)
            if number > 0
        ]
        return torch.cat(sheets)

    def statistics(self, count: int, size: tuple[int, int], device: str) -> Iterator[Tensor]:
        for part, number in zip(self.parts, self.shares(0, count), strict=True):
            yield from part.source.statistics(number, size, device)

    def plan(self, images: int, captions: int, seed: int) -> ExamplePlan:
        """Whole parts of the enumeration belong to one source each, so that a part needs no other source's count."""
        return ExamplePlan(images, captions, seed)

    def examples(
        self, plan: ExamplePlan, part: int, size: tuple[int, int], device: str
    ) -> Iterator[Examples]:
        """Part ``part`` is made by the source whose turn it is, as one of its own parts."""
        turns = [self._turn(index) for index in range(part + 1)]
        index = turns[-1]
        number = turns.count(index) - 1
        size_here = min(PART, plan.images - part * PART)
        own = ExamplePlan(number * PART + size_here, plan.captions, plan.seed)
        yield from self.parts[index].source.examples(own, number, size, device)

    def _turn(self, part: int) -> int:
        """The source that makes part ``part`` of the enumeration."""
        return next(index for index, number in enumerate(self.shares(part, 1)) if number > 0)

    def prompts(self, count: int) -> tuple[str, ...]:
        """Some of each source."""
        texts = [
            part.source.prompts(max(1, number))
            for part, number in zip(self.parts, self.shares(0, count), strict=True)
        ]
        return tuple(text for some in texts for text in some)[:count]


class MixedTriples:
    """A ``TripleSource`` of several: of any rows in a row, each source makes its share."""

    def __init__(self, mixture: MixedSource, sources: Sequence[TripleSource]) -> None:
        """``sources`` make the edits of the parts of ``mixture``, in their order."""
        self.mixture, self.sources, self.name = mixture, tuple(sources), mixture.name

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return tuple(item for source in self.sources for item in source.skipped)

    def triples(
        self, task: str, seed: int, step: int, count: int, rows: Sequence[int], size: tuple[int, int], device: str
    ) -> Triples:  # fmt: skip
        owners = self.mixture.owners(step, count)
        places: list[int] = []  # in ``rows``, of the examples in the order they are made
        made: list[Triples] = []
        for index, source in enumerate(self.sources):
            own = np.flatnonzero(owners == index).tolist()
            here = [place for place, row in enumerate(rows) if owners[row] == index]
            if here:
                numbers = [own.index(rows[place]) for place in here]
                made.append(source.triples(task, seed, step, len(own), numbers, size, device))
                places += here
        return _ordered(made, places)


def _ordered(made: Sequence[Triples], places: Sequence[int]) -> Triples:
    """All examples of ``made``, each put to its place."""
    order = sorted(range(len(places)), key=places.__getitem__)
    texts = [text for part in made for text in part.texts]
    factors = [factor for part in made for factor in part.factors]
    masks = [part.masks for part in made if part.masks is not None]
    return Triples(
        torch.cat([part.sources for part in made])[order], tuple(texts[index] for index in order),
        torch.cat([part.targets for part in made])[order], torch.cat(masks)[order] if masks else None,
        tuple(factors[index] for index in order) if factors else (),
    )  # fmt: skip
