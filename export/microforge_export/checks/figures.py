"""Measured figures beside what they must be, in one wording for every command. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from microforge.bundle.targets import Quality


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measurement and its limits; None where there is none."""

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    digits: int = 3

    @property
    def met(self) -> bool:
        """Within both limits; NaN is not."""
        above = self.low is None or self.value >= self.low
        return above and (self.high is None or self.value <= self.high)

    def measured(self) -> str:
        return f"{self.value:.{self.digits}f}{self.unit}"

    def needed(self) -> str:
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}{self.unit}"
        return (
            f"at least {self.low:g}{self.unit}"
            if self.low is not None
            else f"at most {self.high:g}{self.unit}"
        )

    def phrase(self) -> str:
        return f"{self.what} is {self.measured()}, needed: {self.needed()}"


def image_figures(quality: Quality) -> tuple[Figure, ...]:
    """What is recorded of a quantized target's whole images."""
    limits, count = quality.limits, quality.images
    return (
        median_figure(quality.psnr_median_db, limits.psnr_median_db, count),
        worst_figure(quality.psnr_worst_db, limits.psnr_worst_db, count),
        survival_figure(quality.survival, limits.survival_low, limits.survival_high),
        drift_figure(quality.plan_drift, limits.plan_drift),
    )


def median_figure(value: float, low: float, images: int) -> Figure:
    return Figure(what=f"median PSNR of {_images(images)}", value=value, low=low, unit=" dB", digits=1)


def worst_figure(value: float, low: float, images: int) -> Figure:
    return Figure(what=f"worst PSNR of {_images(images)}", value=value, low=low, unit=" dB", digits=1)


def survival_figure(value: float, low: float, high: float) -> Figure:
    return Figure(what="conditioning survival", value=value, low=low, high=high)


def drift_figure(value: float, high: float) -> Figure:
    return Figure(what="drift of the plan state", value=value, high=high)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
