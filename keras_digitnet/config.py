"""The settings of networks and runs, which can be stored as JSON, and the presets."""

import dataclasses
import math
import numbers
import os
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

from keras_digitnet.errors import DigitNetError, did_you_mean

AUGMENTATIONS = ("affine", "layers", "none")
# The side of a digit in MNIST's form, in pixels, and the shape of its image.
SIDE = 28
IMAGE_SHAPE = (SIDE, SIDE, 1)
# Pixels of a page per cell of a reader's maps, on each side.
STRIDE = 4


def _check(condition: bool, name: str, expected: str, received: object) -> None:
    if not condition:
        raise DigitNetError(f"{name}: expected {expected}; received: {received!r}.")


def _check_name(names: Iterable[str], name: str, received: object) -> None:
    if not (isinstance(received, str) and received in names):
        raise DigitNetError(
            f"{name}: expected one of {', '.join(names)}; received: {received!r}."
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


# Settings: dataclass fields whose metadata says which values are valid


def _setting(default: Any, expected: str, allows: Callable[[Any], bool]) -> Any:
    return field(default=default, metadata={"expected": expected, "allows": allows})


def _number(default: float, low: float, high: float, unit: str = "") -> Any:
    expected = f"a number from {low:g} to {high:g}{unit}"
    return _setting(default, expected, lambda value: _is_number(value, low, high))


def _count(default: int | None, low: int = 1) -> Any:
    return _setting(default, f"a whole number of {low} or more", lambda v: _is_count(v, low))


def _counts(default: tuple[int, ...], exactly: int | None = None, low: int = 1) -> Any:
    def allows(value: object) -> bool:
        if not isinstance(value, list | tuple) or len(value) != (exactly or max(len(value), 1)):
            return False
        return all(_is_count(each) and each >= low for each in value)

    return _setting(default, f"{exactly or 'some'} whole numbers of {low} or more", allows)


def _flag(default: bool) -> Any:
    return _setting(default, "true or false", lambda value: isinstance(value, bool))


def _text(default: str | None) -> Any:
    return _setting(default, "a name or path", lambda v: isinstance(v, str) and v != "")


def _texts() -> Any:
    def allows(value: object) -> bool:
        return isinstance(value, tuple) and all(isinstance(v, str) and v for v in value)

    return _setting((), "a list of names or paths", allows)


def _plain(value: Any) -> Any:
    """A setting converted to Python's own types, which JSON can store."""
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


class _Record:
    """JSON round trip for a frozen dataclass."""

    # Fields that older JSON lacks, with their former values.
    _added: ClassVar[Mapping[str, Any]] = {}

    def _make_plain(self) -> None:
        """Converts all fields to Python's own types."""
        for each in dataclasses.fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, each.name, _plain(getattr(self, each.name)))

    def _check_settings(self, optional: Container[str] = ()) -> None:
        """Raises DigitNetError for a value that its field's metadata does not allow.

        Args:
            optional: Fields that may be None.
        """
        for each in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if each.metadata and not (value is None and each.name in optional):
                _check(each.metadata["allows"](value), each.name, each.metadata["expected"], value)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Builds the record from the result of `to_json`.

        Raises:
            DigitNetError: `values` is not a JSON object, has an unknown field,
                lacks one, or has a value out of range.
        """
        _check(isinstance(values, dict), cls.__name__, "a JSON object", values)
        known = {each.name for each in dataclasses.fields(cls)}  # type: ignore[arg-type]
        values = {**cls._added, **values}
        _check(set(values) == known, cls.__name__, f"the fields {sorted(known)}", sorted(values))
        return cls(**values)


@dataclass(frozen=True)
class ModelConfig(_Record):
    """The sizes of a classifier's network and the strengths of its augmentation.

    Attributes:
        widths: Channels of each stage. The first stage follows the stem; each
            later one follows a downsampling by two.
        depths: ConvNeXt blocks of each stage.
        kernel_size: Side of the depthwise convolutions, in pixels.
        expansion: Hidden channels of a block as a multiple of its width.
        augmentation: `affine` (a single resampling), `layers` (Keras's own three
            layers) or `none`. It is applied in training only.
        rotation: Largest rotation in either direction, in degrees.
        shift: Largest shift along either axis, as a fraction of the side.
        zoom: Largest change of size, as a fraction; with `affine` the height
            changes independently by up to half as much again.
        shear: Largest shear in either direction, in columns per row; `affine`
            only.
        elastic: Standard deviation of the elastic distortion, in pixels;
            `affine` only.
        pen: Fraction of the training images whose strokes are redrawn with a
            bolder, harder or softer pen; ignored with `none`.
        degradation: Fraction of the training images that are corrupted by bars,
            blur, noise, grey paper and stains; ignored with `none`.
        num_classes: Number of classes.
    """

    widths: tuple[int, ...] = _counts((40, 80))
    depths: tuple[int, ...] = _counts((1, 6))
    kernel_size: int = _count(3)
    expansion: int = _count(4)
    augmentation: str = "affine"
    rotation: float = _number(14.0, 0, 180, " degrees")
    shift: float = _number(0.05, 0, 1)
    zoom: float = _number(0.15, 0, 0.9)
    shear: float = _number(0.15, 0, 1)
    elastic: float = _number(1.0, 0, 5)
    pen: float = _number(0.3, 0, 1)
    degradation: float = _number(0.25, 0, 1)
    num_classes: int = _count(10, low=2)

    def __post_init__(self) -> None:
        self._make_plain()
        self._check_settings()
        _check(
            len(self.widths) == len(self.depths),
            "depths",
            f"as many as widths ({len(self.widths)})",
            self.depths,
        )
        _check_name(AUGMENTATIONS, "augmentation", self.augmentation)


@dataclass(frozen=True)
class ReaderConfig(_Record):
    """The sizes of a reader's network and of its training pages.

    Attributes:
        widths: Channels of the fine and of the coarse map, at a quarter and an
            eighth of the page's resolution.
        depths: ConvNeXt blocks on the fine map before downsampling, on the coarse
            map, and on the fine map after upsampling.
        kernel_size: Side of the depthwise convolutions, in pixels of the map.
        expansion: Hidden channels of a block as a multiple of its width.
        page: Rows and columns of a training page, in pixels, at least 32.
        pages: Training pages per epoch; no page is repeated.
        validation_pages: Pages composed of validation characters.
        num_classes: Number of classes.
    """

    widths: tuple[int, int] = _counts((48, 112), exactly=2)
    depths: tuple[int, int, int] = _counts((1, 7, 2), exactly=3)
    kernel_size: int = _count(5)
    expansion: int = _count(3)
    page: tuple[int, int] = _counts((48, 192), exactly=2, low=32)
    pages: int = _count(12_800)
    validation_pages: int = _count(640)
    num_classes: int = _count(10, low=2)

    def __post_init__(self) -> None:
        self._make_plain()
        self._check_settings()


Network = TypeVar("Network", ModelConfig, ReaderConfig)


@dataclass(frozen=True)
class Preset(Generic[Network]):
    """A network and the training settings that suit it.

    Attributes:
        model: Settings of the network.
        learning_rate: Peak learning rate at `batch_size`.
        parameters: Number of trainable parameters with ten classes.
        epochs: Passes over the training images; for a reader, epochs of `pages`.
        batch_size: Images, or pages, per step.
        weight_decay: Weight decay of AdamW.
    """

    model: Network
    learning_rate: float
    parameters: int
    epochs: int = 10
    batch_size: int = 128
    weight_decay: float = 0.05


# Networks that classify an image of one digit.
CLASSIFIERS: dict[str, Preset[ModelConfig]] = {
    "nano": Preset(
        # The smaller a network, the more accuracy on clean digits is lost to hard augmentation.
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
# Networks that find and classify the digits of a page.
READERS: dict[str, Preset[ReaderConfig]] = {
    "reader": Preset(
        model=ReaderConfig(),
        learning_rate=2e-3,
        parameters=643_471,
        epochs=80,
        batch_size=32,
    ),
}
PRESETS: Mapping[str, Preset[ModelConfig] | Preset[ReaderConfig]] = {**CLASSIFIERS, **READERS}

# A setting that defaults to the preset's.
_OF_PRESET: Any = None


@dataclass(frozen=True)
class TrainConfig(_Record):
    """The settings of a training run: a preset, and deviations from it.

    Attributes:
        preset: A key of `PRESETS`.
        data: The data set, as `keras_digitnet.data.load_dataset` takes it.
        seed: Seed of the initial weights, the order of the images, the
            augmentation and the validation split.
        epochs: Passes over the training images, and the length of the
            learning-rate schedule; `None` means the preset's.
        batch_size: Images, or pages, per step; `None` means the preset's.
        learning_rate: Peak learning rate; `None` means the preset's.
        warmup_epochs: Epochs of linear warm-up; may be fractional.
        weight_decay: Decoupled weight decay of AdamW, applied to kernels only;
            `None` means the preset's.
        validation_size: Fraction of the training images to hold out for
            validation.
        patience: Epochs without a lower validation loss before early stopping;
            `None` means half of `epochs`, but at least five, since the loss
            fluctuates until the learning rate is low.
        min_images_per_epoch: A smaller training set is repeated within an epoch.
        test: Whether to score the test images, once, at the end.
        export: Whether to write a SavedModel beside the `.keras` file.
        model: The network; `None` means the preset's.
        start: A trained model of the same network, or of one with fewer blocks, from
            whose weights to start: a preset, run folder or `.keras` file; `None`
            initializes new weights.
        teacher: Trained classifiers of the same classes and of any size, whose
            softened probabilities are learned beside the labels: presets, run
            folders or `.keras` files.
    """

    preset: str = "base"
    data: str = _text("auto")
    seed: int = _setting(0, "0 to 4294967295", lambda value: _is_count(value, 0, 2**32 - 1))
    epochs: int = _count(_OF_PRESET)
    batch_size: int = _count(_OF_PRESET)
    learning_rate: float | None = _number(_OF_PRESET, 1e-9, 1)
    warmup_epochs: float = 0.5
    weight_decay: float = _number(_OF_PRESET, 0, 1)
    validation_size: float = _number(0.05, 0.001, 0.9)
    patience: int | None = _count(None)
    min_images_per_epoch: int = _count(9_600)
    test: bool = _flag(True)
    export: bool = _flag(True)
    model: ModelConfig | ReaderConfig | None = None
    start: str | None = _text(None)
    teacher: tuple[str, ...] = _texts()

    _added = {"start": None, "teacher": ()}  # noqa: RUF012

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
        self._check_settings(optional=("learning_rate", "patience", "start"))
        classifies = isinstance(self.network, ModelConfig)
        _check(classifies or not self.teacher, "teacher", "none for a reader", self.teacher)
        most = self.epochs
        warm = _is_number(self.warmup_epochs, 0, most)
        _check(warm, "warmup_epochs", f"a number from 0 to {most}", self.warmup_epochs)

    def completed(self, data: str, num_classes: int) -> Self:
        """The settings with all defaults filled in, as a run records them.

        Args:
            data: The source of the images, in place of `auto`.
            num_classes: Number of their classes.
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
        """`patience`, else half of the epochs but at least five."""
        return max(5, self.epochs // 2) if self.patience is None else self.patience

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, else the preset's."""
        if self.learning_rate is None:
            return PRESETS[self.preset].learning_rate
        return self.learning_rate
