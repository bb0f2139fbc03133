"""Noise as it is asked for, by --noise or in a spec file: numbers and names, no torch before `model` builds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from . import config
from .errors import RequestError, unknown
from .words import by, number

if TYPE_CHECKING:
    from . import operators
    from .images import Array, Picture


@dataclass(frozen=True, kw_only=True)
class NoiseSpec(ABC):
    """A model of what is added to A(x), by its numbers; see its class in `invdiff.operators`."""

    name: ClassVar[str]

    def __str__(self) -> str:
        """As it is typed: poisson:50."""
        return f"{self.name}:{','.join(f'{value:g}' for value in astuple(self))}"

    @property
    @abstractmethod
    def spread(self) -> float:
        """About its standard deviation on a middle grey: whether a method meets noise, and how much."""

    @abstractmethod
    def model(self) -> operators.Noise:
        """The model itself."""

    def copied(self, times: int) -> Self:
        """The noise of each of so many equal copies, that all of them count as one measurement."""
        return self


@dataclass(frozen=True, kw_only=True)
class Poisson(NoiseSpec):
    """Photons: Poisson(peak·a)/peak."""

    name: ClassVar[str] = "poisson"
    peak: float

    def __post_init__(self) -> None:
        _positive("peak", self.peak)

    @property
    def spread(self) -> float:
        return (0.5 / self.peak) ** 0.5

    def model(self) -> operators.Noise:
        from . import operators

        return operators.PoissonNoise(self.peak)

    def copied(self, times: int) -> Self:
        return replace(self, peak=self.peak / times)


@dataclass(frozen=True, kw_only=True)
class PoissonGaussian(NoiseSpec):
    """Photons, and the noise of reading them."""

    name: ClassVar[str] = "poisson-gaussian"
    peak: float
    sigma: float

    def __post_init__(self) -> None:
        _positive("peak", self.peak)
        _positive("sigma", self.sigma, 1)

    @property
    def spread(self) -> float:
        return (0.5 / self.peak + self.sigma**2) ** 0.5

    def model(self) -> operators.Noise:
        from . import operators

        return operators.PoissonGaussianNoise(self.peak, self.sigma)

    def copied(self, times: int) -> Self:
        return replace(self, peak=self.peak / times, sigma=self.sigma * times**0.5)


@dataclass(frozen=True, kw_only=True)
class SaltPepper(NoiseSpec):
    """Numbers replaced by 0 or 1, that part of them."""

    name: ClassVar[str] = "salt-pepper"
    amount: float

    def __post_init__(self) -> None:
        _positive("amount", self.amount, 0.999)

    @property
    def spread(self) -> float:
        return 0.5 * self.amount**0.5

    def model(self) -> operators.Noise:
        from . import operators

        return operators.SaltAndPepperNoise(self.amount)


@dataclass(frozen=True, kw_only=True)
class Laplace(NoiseSpec):
    """exp(−|y − a|/scale)/(2·scale)."""

    name: ClassVar[str] = "laplace"
    scale: float

    def __post_init__(self) -> None:
        _positive("scale", self.scale, 1)

    @property
    def spread(self) -> float:
        return 2**0.5 * self.scale

    def model(self) -> operators.Noise:
        from . import operators

        return operators.LaplaceNoise(self.scale)

    def copied(self, times: int) -> Self:
        return replace(self, scale=self.scale * times)


@dataclass(frozen=True, kw_only=True)
class Quantised(NoiseSpec):
    """Rounded to so many bits."""

    name: ClassVar[str] = "quantised"
    bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 16 or self.bits != int(self.bits):
            raise ValueError(f"bits: expected a whole number from 1 to 16, got {self.bits:g}")

    @property
    def spread(self) -> float:
        return 1 / (2 ** int(self.bits) - 1) / 12**0.5

    def model(self) -> operators.Noise:
        from . import operators

        return operators.QuantisationNoise(int(self.bits))


NOISES: dict[str, type[NoiseSpec]] = {
    "poisson": Poisson,
    "poisson-gaussian": PoissonGaussian,
    "salt-pepper": SaltPepper,
    "laplace": Laplace,
    "quantised": Quantised,
}

Noise = float | Literal["auto"] | NoiseSpec
"""σ_y in image units; "auto": estimated from each picture; or another model."""


def parse_noise(given: str | float | Mapping[str, Any], where: str = "--noise") -> Noise:
    """--noise or a spec file's noise: σ_y, "auto", poisson:50 or {poisson: {peak: 50}}. RequestError otherwise."""
    if isinstance(given, Mapping):
        if len(given) != 1:
            raise RequestError(
                f"{where}: expected one model and its numbers, as in {{poisson: {{peak: 50}}}}"
            )
        ((name, numbers),) = given.items()
        if name == "gaussian":
            raise RequestError(f"{where}: gaussian: give its standard deviation alone, as in noise: 0.1")
        if name not in NOISES:
            raise unknown("noise", str(name), NOISES)
        if not isinstance(numbers, Mapping):
            raise RequestError(f"{where}: {name}: expected keys and values, {_keys(name)}, got {numbers!r}")
        return config.build(NOISES[name], numbers, f"{where}: {name}")
    name, colon, rest = str(given).partition(":")
    if name == "gaussian":  # what a plain number is
        given, name, colon = rest or given, "", ""
    if colon or name in NOISES:
        if name not in NOISES:
            raise unknown("noise", name, NOISES)
        values = [number(part) for part in rest.split(",")]
        keys = [field.name for field in fields(NOISES[name])]
        if None in values or len(values) != len(keys):
            raise RequestError(f"{where} {given}: expected {name}:{','.join(k.upper() for k in keys)}")
        return config.build(NOISES[name], dict(zip(keys, values, strict=True)), f"{where} {given}")
    if given == "auto":
        return "auto"
    sigma_y = None if isinstance(given, bool) else number(str(given))
    if sigma_y is None or not 0 <= sigma_y <= 1:
        raise RequestError(
            f"{where}: expected auto, or a standard deviation from 0 to 1 in image units (8-bit 25 is 0.098), "
            f"got {given}"
        )
    return sigma_y


def known_sigma(noise: Noise) -> float:
    """Its standard deviation, as far as it is known without a picture."""
    if isinstance(noise, NoiseSpec):
        return noise.spread
    return 0.0 if noise == "auto" else float(noise)


def as_text(noise: Noise) -> str | float:
    """For records: JSON-able."""
    return str(noise) if isinstance(noise, NoiseSpec) else noise


def as_yaml(noise: Noise) -> Any:
    """As `parse_noise` takes it back, every digit kept."""
    return {noise.name: config.dump(noise)} if isinstance(noise, NoiseSpec) else noise


def estimate_noise(picture: Picture, keep: Array | None = None) -> float:
    """σ of white noise from a picture's finest diagonal wavelet coefficients d: median |d| / 0.6745, over
    channels.

    As `skimage.restoration.estimate_sigma` (Daubechies-2), but without its extra dependency, and with only
    those coefficients that see kept pixels alone. Source: Donoho and Johnstone 1994,
    doi:10.1093/biomet/81.3.425. RequestError where a mask leaves too few.
    """
    import numpy as np
    from numpy.lib.stride_tricks import sliding_window_view

    root = 3**0.5
    taps = np.array([1 - root, -(3 - root), 3 + root, -(1 + root)]) / (4 * 2**0.5)
    if min(picture.size) < 5:
        size = by(picture.size)
        raise RequestError(f"{picture.path}: too small for --noise auto ({size}); give a number")
    windows = sliding_window_view(picture.array, (4, 4), axis=(0, 1))[::2, ::2]
    details = np.abs(np.einsum("ijcyx,y,x->cij", windows, taps, taps))
    if keep is not None:
        seen = sliding_window_view(keep, (4, 4))[::2, ::2].all(axis=(2, 3))
        if np.count_nonzero(seen) < 64:
            raise RequestError(f"{picture.path}: the mask leaves too little for --noise auto; give a number")
        details = details[:, seen]
    found = [np.median(d[d > 1e-6]) if (d > 1e-6).any() else 0.0 for d in details.reshape(len(details), -1)]
    return float(np.mean(found)) / 0.6744897501960817


def _keys(name: str) -> str:
    return "{" + ", ".join(f"{field.name}: ..." for field in fields(NOISES[name])) + "}"


def _positive(name: str, value: float, most: float = 1e6) -> None:
    if not 0 < value <= most:
        raise ValueError(f"{name}: expected a number above 0, at most {most:g}, got {value:g}")
