"""What a network and a run are made of, as plain values that survive JSON."""

import dataclasses
import math
import numbers
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from keras_digitnet.errors import DigitNetError, did_you_mean

AUGMENTATIONS = ("affine", "layers", "none")
EXPORT_FORMATS = ("saved_model", "onnx", "litert", "openvino")


def _check(condition: bool, field: str, expected: str, received: object) -> None:
    if not condition:
        raise DigitNetError(f"{field}: expected {expected}; received: {received!r}.")


def _check_name(names: Iterable[str], field: str, received: object) -> None:
    if not (isinstance(received, str) and received in names):
        raise DigitNetError(
            f"{field}: expected one of {', '.join(names)}; received: {received!r}."
            + did_you_mean(received, names)
        )


def _is_number(value: object, low: float, high: float) -> bool:
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and bool(low <= value <= high)  # type: ignore[operator]  # NaN is neither; 10**400 is no float
    )


def _is_count(value: object, low: int = 1, high: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _plain(value: Any) -> Any:
    """A setting in Python's own types, which JSON can hold, whichever library it came from."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, and those of JAX and torch
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if isinstance(value, numbers.Real) and not isinstance(value, int | float):
        try:
            return int(value) if isinstance(value, numbers.Integral) else float(value)
        except OverflowError:
            pass
    return value


def export_kinds(formats: Sequence[str], quantize: str | None = None) -> list[str]:
    """What is to be written: the formats, or `litert int8`; `all` alone is every format.

    Raises:
        DigitNetError: There is no such format or quantization, or no such pair.
    """
    if list(formats) == ["all"] and quantize is None:
        return list(EXPORT_FORMATS)
    unknown = [name for name in formats if name not in EXPORT_FORMATS]
    if unknown or not formats:
        raise DigitNetError(
            f"format: expected one of {', '.join(EXPORT_FORMATS)}; "
            f"received: {', '.join(unknown) or 'none'}."
            + "".join(did_you_mean(name, EXPORT_FORMATS) for name in unknown[:1])
        )
    if quantize is None:
        return list(formats)
    if quantize != "int8" or list(formats) != ["litert"]:
        raise DigitNetError(
            "quantize: expected int8, with the format litert alone; "
            f"received: {quantize} with {', '.join(formats)}."
        )
    return ["litert int8"]


class _Record:
    """JSON round trip for a frozen dataclass."""

    # Fields that JSON of before lacks, and what they were then.
    _added: ClassVar[Mapping[str, Any]] = {}

    def _make_plain(self) -> None:
        """Brings each field into Python's own types."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Builds the record from what `to_json` gave.

        Raises:
            DigitNetError: `values` is no JSON object, names a field that does
                not exist, lacks one, or holds a value out of range.
        """
        _check(isinstance(values, dict), cls.__name__, "a JSON object", values)
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        values = {**cls._added, **values}
        _check(set(values) == known, cls.__name__, f"the fields {sorted(known)}", sorted(values))
        return cls(**values)


@dataclass(frozen=True)
class ModelConfig(_Record):
    """The sizes and rates of one DigitNet.

    Attributes:
        widths: Channels of each stage. The first stage follows the stem; each
            later one follows a downsampling by two.
        depths: ConvNeXt blocks of each stage.
        kernel_size: Side of the depthwise convolutions, in pixels.
        expansion: Hidden channels of a block as a multiple of its width.
        augmentation: `affine` (one resample), `layers` (Keras's own three) or
            `none`. It acts in training only.
        rotation: Largest rotation either way, in degrees.
        shift: Largest shift either way and axis, as a fraction of the side.
        zoom: Largest change of size either way, as a fraction; with `affine`
            the height changes by up to half as much again on its own.
        shear: Largest slant either way, in columns a row; `affine` only.
        elastic: How far pixels are bent off, standard deviation in pixels;
            `affine` only.
        pen: Share of the training images that are drawn anew with a bolder or
            harder pen; not with `none`.
        degradation: Share of the training images that are corrupted by bars,
            blur, noise, grey paper and stains; not with `none`.
        num_classes: Number of logits.
    """

    widths: tuple[int, ...] = (40, 80)
    depths: tuple[int, ...] = (1, 6)
    kernel_size: int = 3
    expansion: int = 4
    augmentation: str = "affine"
    rotation: float = 14.0
    shift: float = 0.05
    zoom: float = 0.15
    shear: float = 0.15
    elastic: float = 1.0
    pen: float = 0.3
    degradation: float = 0.25
    num_classes: int = 10

    def __post_init__(self) -> None:
        self._make_plain()
        for name in ("widths", "depths"):
            sizes = getattr(self, name)
            listed = isinstance(sizes, list | tuple) and len(sizes) > 0
            _check(listed and all(map(_is_count, sizes)), name, "whole numbers of 1 or more", sizes)
        _check(
            len(self.widths) == len(self.depths),
            "depths",
            f"as many as widths ({len(self.widths)})",
            self.depths,
        )
        for name in ("kernel_size", "expansion"):
            _check(_is_count(getattr(self, name)), name, "1 or more", getattr(self, name))
        _check(_is_count(self.num_classes, 2), "num_classes", "2 or more", self.num_classes)
        for name, high in (
            ("shift", 1),
            ("zoom", 0.9),
            ("shear", 1),
            ("elastic", 5),
            ("pen", 1),
            ("degradation", 1),
        ):
            value = getattr(self, name)
            _check(_is_number(value, 0, high), name, f"a number from 0 to {high}", value)
        _check(_is_number(self.rotation, 0, 180), "rotation", "0 to 180 degrees", self.rotation)
        _check_name(AUGMENTATIONS, "augmentation", self.augmentation)


@dataclass(frozen=True)
class ReaderConfig(_Record):
    """The sizes of the network that finds and reads the characters of a page, and its pages.

    Attributes:
        widths: Channels of the fine and of the coarse map, at a quarter and an
            eighth of the page's resolution.
        depths: ConvNeXt blocks of the fine map before it is made coarse, of the
            coarse one, and of the fine map after it.
        kernel_size: Side of the depthwise convolutions, in pixels of the map.
        expansion: Hidden channels of a block as a multiple of its width.
        page: Rows and columns of the pages it is trained on, in pixels.
        pages: Pages of an epoch; no two are the same.
        validation_pages: Pages that are composed of the held-back characters.
        num_classes: Classes of characters.
    """

    widths: tuple[int, int] = (48, 112)
    depths: tuple[int, int, int] = (1, 4, 1)
    kernel_size: int = 5
    expansion: int = 3
    page: tuple[int, int] = (48, 192)
    pages: int = 12_800
    validation_pages: int = 640
    num_classes: int = 10

    def __post_init__(self) -> None:
        self._make_plain()
        for name, count in (("widths", 2), ("depths", 3), ("page", 2)):
            sizes = getattr(self, name)
            listed = isinstance(sizes, list | tuple) and len(sizes) == count
            _check(
                listed and all(map(_is_count, sizes)), name, f"{count} numbers of 1 or more", sizes
            )
        for name in ("kernel_size", "expansion", "pages", "validation_pages"):
            _check(_is_count(getattr(self, name)), name, "1 or more", getattr(self, name))
        _check(_is_count(self.num_classes, 2), "num_classes", "2 or more", self.num_classes)


Network = TypeVar("Network", ModelConfig, ReaderConfig)


@dataclass(frozen=True)
class Preset(Generic[Network]):
    """A network with the training that suits it.

    Attributes:
        model: Sizes and rates.
        learning_rate: Peak learning rate at `batch_size`.
        parameters: Trainable parameters with ten classes.
        epochs: Passes over the training images; the reader's are of `pages`.
        batch_size: Images, or pages, a step.
        weight_decay: AdamW's.
    """

    model: Network
    learning_rate: float
    parameters: int
    epochs: int = 10
    batch_size: int = 128
    weight_decay: float = 0.05


# What tells which digit an image shows ...
CLASSIFIERS: dict[str, Preset[ModelConfig]] = {
    "nano": Preset(
        # The smaller the network, the more mistakes on clean digits hard ones cost it.
        model=ModelConfig(
            widths=(12, 24),
            depths=(1, 2),
            expansion=2,
            shift=0.12,
            elastic=0.5,
            pen=0.0,
            degradation=0.1,
        ),
        learning_rate=1.5e-2,
        parameters=9_526,
    ),
    "small": Preset(
        model=ModelConfig(widths=(24, 48), depths=(1, 5), expansion=2, degradation=0.1),
        learning_rate=1e-2,
        parameters=62_818,
    ),
    "base": Preset(
        model=ModelConfig(widths=(40, 80), depths=(1, 6), expansion=4),
        learning_rate=8e-3,
        parameters=354_290,
    ),
}
# ... and what finds and reads the digits of a page.
READERS: dict[str, Preset[ReaderConfig]] = {
    "reader": Preset(
        model=ReaderConfig(),
        learning_rate=2e-3,
        parameters=391_567,
        epochs=80,
        batch_size=32,
    ),
}
PRESETS: Mapping[str, Preset[ModelConfig] | Preset[ReaderConfig]] = {**CLASSIFIERS, **READERS}

# A setting that is filled in with the preset's.
_OF_PRESET: Any = None


@dataclass(frozen=True)
class TrainConfig(_Record):
    """One training run: a preset and what may differ from it.

    Attributes:
        preset: A key of `PRESETS`.
        data: What `keras_digitnet.data.load_dataset` takes.
        seed: Seeds the first weights, the order of the digits, the
            augmentation and the validation split.
        epochs: Passes over the training digits, and the length of the
            learning-rate schedule; `None` becomes the preset's.
        batch_size: Digits, or pages, a step; `None` becomes the preset's.
        learning_rate: The schedule's peak; `None` is the preset's.
        warmup_epochs: Epochs of linear warm-up; may be a fraction.
        weight_decay: AdamW's decoupled decay, kernels only; `None` becomes the
            preset's.
        validation_size: Fraction of the training digits that is held back to
            choose by.
        patience: Epochs without a lower validation loss before the run stops;
            `None` is half of `epochs`, but at least five: the loss wavers until
            the learning rate is low.
        min_images_per_epoch: A data set with fewer training images is gone
            through more than once an epoch.
        test: Whether the test images are scored, once, at the end.
        export: Whether a SavedModel is written beside the `.keras` file.
        model: The network; `None` is the preset's.
        start: A trained model of the same network whose weights are the first
            ones, as `keras_digitnet.load` takes it; `None` draws them anew.
    """

    preset: str = "base"
    data: str = "auto"
    seed: int = 0
    epochs: int = _OF_PRESET
    batch_size: int = _OF_PRESET
    learning_rate: float | None = None
    warmup_epochs: float = 0.5
    weight_decay: float = _OF_PRESET
    validation_size: float = 0.05
    patience: int | None = None
    min_images_per_epoch: int = 9_600
    test: bool = True
    export: bool = True
    model: ModelConfig | ReaderConfig | None = None
    start: str | None = None

    _added = {"start": None}  # noqa: RUF012

    def __post_init__(self) -> None:
        self._make_plain()
        _check_name(PRESETS, "preset", self.preset)
        preset = PRESETS[self.preset]
        for name in ("epochs", "batch_size", "weight_decay"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(preset, name))
        kind = type(preset.model)
        if isinstance(self.model, dict):  # as JSON has it
            object.__setattr__(self, "model", kind.from_json(self.model))
        _check(isinstance(self.network, kind), "model", f"a {kind.__name__}", self.model)
        started = self.start is None or (isinstance(self.start, str) and self.start != "")
        _check(started, "start", "a model's name or path", self.start)
        _check(isinstance(self.data, str) and self.data != "", "data", "a name or path", self.data)
        _check(_is_count(self.seed, 0, 2**32 - 1), "seed", "0 to 4294967295", self.seed)
        for name in ("test", "export"):
            value = getattr(self, name)
            _check(isinstance(value, bool), name, "true or false", value)
        for name in ("epochs", "batch_size", "min_images_per_epoch"):
            value = getattr(self, name)
            _check(_is_count(value), name, "a whole number of 1 or more", value)
        patience = self.epochs_of_patience
        _check(_is_count(patience), "patience", "a whole number of 1 or more", patience)
        rate = self.peak_learning_rate
        _check(_is_number(rate, 1e-9, 1), "learning_rate", "a number from 1e-9 to 1", rate)
        for name, low, high in (
            ("warmup_epochs", 0, self.epochs),
            ("weight_decay", 0, 1),
            ("validation_size", 0.001, 0.9),
        ):
            value = getattr(self, name)
            _check(_is_number(value, low, high), name, f"a number from {low} to {high}", value)

    def completed(self, data: str, num_classes: int) -> Self:
        """The same with what it leaves open filled in, so that a run names all it used.

        Args:
            data: Where the images come from, whatever `auto` found.
            num_classes: Their classes.
        """
        return dataclasses.replace(
            self,
            data=data,
            model=dataclasses.replace(self.network, num_classes=num_classes),
            learning_rate=self.peak_learning_rate,
            patience=self.epochs_of_patience,
        )

    @property
    def network(self) -> ModelConfig | ReaderConfig:
        """The network that is trained: `model`, else the preset's."""
        return self.model or PRESETS[self.preset].model

    @property
    def epochs_of_patience(self) -> int:
        """`patience`, else half of the epochs or five."""
        return max(5, self.epochs // 2) if self.patience is None else self.patience

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, else the preset's."""
        if self.learning_rate is None:
            return PRESETS[self.preset].learning_rate
        return self.learning_rate
