"""Metrics beside what they must be, in one wording for every command. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from microforge.bundle.targets import Quality


@dataclass(frozen=True, kw_only=True)
class Metric:
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


def image_metrics(quality: Quality) -> tuple[Metric, ...]:
    """What is recorded of a quantized target's whole images."""
    limits, count = quality.limits, quality.images
    return (
        median_metric(quality.psnr_median_db, limits.psnr_median_db, count),
        worst_metric(quality.psnr_worst_db, limits.psnr_worst_db, count),
        guidance_norm_metric(
            quality.guidance_norm_ratio, limits.guidance_norm_ratio_low, limits.guidance_norm_ratio_high
        ),
        *state_metrics(quality.state_drift, limits.state_drift),
    )


def median_metric(value: float, low: float, images: int) -> Metric:
    return Metric(what=f"median PSNR of {_images(images)}", value=value, low=low, unit=" dB", digits=1)


def worst_metric(value: float, low: float, images: int) -> Metric:
    return Metric(what=f"worst PSNR of {_images(images)}", value=value, low=low, unit=" dB", digits=1)


def guidance_norm_metric(value: float, low: float, high: float) -> Metric:
    return Metric(what="guidance-norm ratio", value=value, low=low, high=high)


def state_metrics(value: float | None, high: float | None) -> tuple[Metric, ...]:
    """The relative state error, for a model that carries a state."""
    return () if value is None else (Metric(what="relative state error", value=value, high=high),)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
