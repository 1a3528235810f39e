"""The two tasks of a run, classifier and reader: network, batches, calibration and evaluation."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import keras
import numpy as np

from keras_digitnet import plots
from keras_digitnet.artifacts import RunFolder
from keras_digitnet.config import ModelConfig, ReaderConfig, TrainConfig
from keras_digitnet.data import Dataset, Split
from keras_digitnet.errors import DigitNetError
from keras_digitnet.evaluation import LinesReport, Report, evaluate, fit_presence, fit_temperature
from keras_digitnet.formats.keras_file import load_keras_model
from keras_digitnet.formats.runtime import usable_cpus
from keras_digitnet.networks.blocks import fold_temperature
from keras_digitnet.networks.classifier import build_model
from keras_digitnet.networks.detector import (
    CharacterAccuracy,
    DetectionLoss,
    build_detector,
    centre_features,
    characters,
    fold_presence,
    peaks,
)
from keras_digitnet.networks.distillation import add_teachers
from keras_digitnet.pages import Composer, GlyphSource
from keras_digitnet.pages.batches import Batch, PageBatches
from keras_digitnet.reading.finding import Reader
from keras_digitnet.reading.inference import (
    Classifier,
    find_keras_file,
    load,
    load_classifier,
)
from keras_digitnet.written_lines import read_lines

AnyReport = Report | LinesReport

# The norm is from 2 to 20 in a reader's training; without a limit one diverged in its fourth epoch.
_MAX_GRADIENT_NORM = 10.0
# Lines on which a reader is evaluated, and training pages in the run's picture.
_LINES = 500
_SHOWN_PAGES = 24
_ALL = slice(None)  # rows of a batch


class Task(Protocol):
    """What differs between the networks that a run can train.

    Attributes:
        steps: Batches per epoch.
        loss: The loss for `Model.compile`.
        metrics: The metrics for `Model.compile`; one of them is `accuracy`.
        validation_batch: Batch size outside training.
        max_gradient_norm: The largest norm of a step's gradient; `None` is no limit.
    """

    steps: int
    max_gradient_norm: float | None
    validation_batch: int
    loss: keras.losses.Loss
    metrics: list[Any]

    def network(self, name: str) -> keras.Model:
        """Builds the network, with weights initialized from Keras's global seed."""

    def training_model(self, name: str) -> keras.Model:
        """Builds the network for `Model.fit`; it has the same weights."""

    def batches(self, first_epoch: int, rows: slice = _ALL) -> Iterator[Batch]:
        """Endless batches, `steps` per epoch, which depend on the seed and the epoch's number.

        Only the `rows` of each batch are made.
        """

    def validation(self) -> Batch:
        """The inputs and targets of validation, the same in every epoch."""

    def calibrate(self, model: keras.Model) -> tuple[keras.Model, dict[str, float]]:
        """A calibrated copy of the model, and the parameters that were fitted on validation."""

    def evaluate(self, folder: RunFolder, title: str) -> tuple[AnyReport, AnyReport | None]:
        """The metrics of the folder's model on validation and, unless disabled, test images.

        Writes the pictures of its mistakes into the folder.
        """


def task_of(config: TrainConfig, dataset: Dataset) -> Task:
    """The task for the network of `config`."""
    if isinstance(config.network, ReaderConfig):
        return ReaderTask(config, config.network, dataset)
    return ClassifierTask(config, config.network, dataset)


def _copied(model: keras.Model, task: Task) -> keras.Model:
    """A copy of the task's network, without teachers and optimizer."""
    copy = task.network(model.name)
    copy.set_weights(model.get_weights())
    return copy


class ClassifierTask:
    """Trains a classifier: an image of one character to its class.

    Args:
        config: Settings of the run.
        network: Sizes of the network.
        dataset: The images.
    """

    def __init__(self, config: TrainConfig, network: ModelConfig, dataset: Dataset) -> None:
        images = max(len(dataset.train), config.min_images_per_epoch)
        self.steps = max(images // config.batch_size, 1)
        self.validation_batch = 500
        self.max_gradient_norm: float | None = None
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.metrics = ["accuracy"]
        self._config = config
        self._network = network
        self._dataset = dataset

    def network(self, name: str) -> keras.Model:
        """Builds the classifier with new weights."""
        return build_model(self._network, name)

    def training_model(self, name: str) -> keras.Model:
        """Builds the classifier, with its teachers if there are any."""
        model = self.network(name)
        teachers = [_load_teacher(where, self._dataset) for where in self._config.teacher]
        return add_teachers(model, teachers) if teachers else model

    def batches(self, first_epoch: int, rows: slice = _ALL) -> Iterator[Batch]:
        """Batches of images `(B, 28, 28, 1)` uint8 and labels `(B,)` int64."""
        config, train = self._config, self._dataset.train
        return batches(train, config.batch_size, self.steps, config.seed, first_epoch, rows)

    def validation(self) -> Batch:
        """All validation images and their labels."""
        return self._dataset.validation.images, self._dataset.validation.labels

    def calibrate(self, model: keras.Model) -> tuple[keras.Model, dict[str, float]]:
        """Calibrates the logits by a temperature."""
        images, labels = self.validation()
        logits = model.predict(images, batch_size=self.validation_batch, verbose=0)
        temperature = fit_temperature(logits, labels)
        bare = _copied(model, self)
        fold_temperature(bare, temperature)
        return bare, {"temperature": temperature}

    def evaluate(self, folder: RunFolder, title: str) -> tuple[Report, Report | None]:
        """The metrics on validation and test images; draws confusion matrix and mistakes."""
        dataset, classifier = self._dataset, load_classifier(folder.model_path)
        shown, kind = dataset.validation, "validation"
        report, probabilities = _evaluate(classifier, shown)
        validation, test = report, None
        if self._config.test:
            shown, kind = dataset.test, "test"
            report, probabilities = _evaluate(classifier, shown)
            test = report
        title = f"{title}, {len(shown):,} {kind} images"
        matrix = plots.plot_confusion_matrix(report.confusion_matrix, dataset.classes, title)
        plots.save_figure(matrix, folder.confusion_matrix_path)
        mistakes = plots.plot_mistakes(
            shown.images, shown.labels, probabilities, dataset.classes, title
        )
        plots.save_figure(mistakes, folder.mistakes_path)
        return validation, test


def _load_teacher(where: str, dataset: Dataset) -> keras.Model:
    """Loads a classifier of the data set's classes.

    Raises:
        DigitNetError: There is none.
    """
    try:
        path = find_keras_file(where)
        load_classifier(path).require_classes(dataset.classes)
        return load_keras_model(path)
    except DigitNetError as error:
        raise DigitNetError(f"teacher: {error}") from None


def _evaluate(classifier: Classifier, split: Split) -> tuple[Report, np.ndarray]:
    probabilities = classifier.predict(split.images).probabilities
    return evaluate(probabilities, split.labels, classifier.classes), probabilities


class ReaderTask:
    """Trains a reader: a page to the boxes and classes of its characters.

    Pages are composed during training.

    Args:
        config: Settings of the run.
        network: Sizes of the network and of its pages.
        dataset: The characters of the pages.
    """

    def __init__(self, config: TrainConfig, network: ReaderConfig, dataset: Dataset) -> None:
        self.steps = max(network.pages // config.batch_size, 1)
        self.validation_batch = 32
        self.max_gradient_norm: float | None = _MAX_GRADIENT_NORM
        self.loss = DetectionLoss()
        self.metrics = [CharacterAccuracy(name="accuracy")]
        self._config = config
        self._network = network
        self._dataset = dataset

    def network(self, name: str) -> keras.Model:
        """Builds the reader with new weights."""
        return build_detector(self._network, name)

    def training_model(self, name: str) -> keras.Model:
        """Builds the reader."""
        return self.network(name)

    def batches(self, first_epoch: int, rows: slice = _ALL) -> Iterator[Batch]:
        """Batches of pages `(B, H, W, 1)` uint8 and targets `(B, h, w, 8)` float32."""
        numbers = (
            (epoch, step) for epoch in itertools.count(first_epoch) for step in range(self.steps)
        )
        pages = range(self._config.batch_size)[rows]
        return self._pages(self._dataset.train, pages).in_order(numbers, _page_workers())

    def validation(self) -> Batch:
        """Pages composed of the validation characters, and their targets."""
        pages = range(self._network.validation_pages)
        # No epoch has this number, so these pages are in no training epoch.
        return self._pages(self._dataset.validation, pages).compose((2**32 - 1, 0))

    def calibrate(self, model: keras.Model) -> tuple[keras.Model, dict[str, float]]:
        """Calibrates the logits by a temperature, and the presence by scale and shift."""
        pages, targets = self.validation()
        cells = model.predict(pages, batch_size=self.validation_batch, verbose=0)
        temperature = fit_temperature(*characters(cells, targets))
        scale, shift = fit_presence(*peaks(cells, targets))
        bare = _copied(model, self)
        fold_temperature(bare, temperature)
        fold_presence(bare, scale, shift)
        centre_features(bare, pages)
        calibration = {"temperature": temperature, "presence_scale": scale, "presence_shift": shift}
        return bare, calibration

    def evaluate(self, folder: RunFolder, title: str) -> tuple[LinesReport, LinesReport | None]:
        """The metrics on composed lines; draws training pages and misread lines."""
        reader = load(folder.model_path)
        assert isinstance(reader, Reader)
        shown, kind = read_lines(reader, self._dataset.validation, _LINES), "validation"
        validation, test = shown.report, None
        if self._config.test:
            shown, kind = read_lines(reader, self._dataset.test, _LINES), "test"
            test = shown.report
        composing = self._pages(self._dataset.train, range(_SHOWN_PAGES))
        pages = [composing.page((0, 0), index) for index in composing.pages]
        figure = plots.plot_pages(pages, self._dataset.classes, f"{title}: training pages")
        plots.save_figure(figure, folder.pages_path)
        title = f"{title}, {_LINES:,} lines of {kind} images"
        plots.save_figure(plots.plot_lines(shown.mistakes(), title), folder.mistakes_path)
        return validation, test

    def _pages(self, split: Split, pages: range) -> PageBatches:
        source = GlyphSource(split.images, split.labels, self._dataset.classes)
        composer = Composer(source, self._network.page, self._network.num_classes)
        return PageBatches(composer, self._config.seed, pages)


def _page_workers() -> int:
    """Processes that compose pages: two processors are left to the training."""
    return max(usable_cpus() - 2, 0)


def undo_calibration(model: keras.Model, calibration: Mapping[str, Any]) -> None:
    """Restores a model's weights as they were trained; the inverse of `Task.calibrate`.

    The next training ends with a calibration too. On top of one another they magnify
    the presence until training diverges.

    Args:
        model: A calibrated classifier or reader.
        calibration: What `Task.calibrate` returned, among a run's other metrics.
    """
    if "temperature" in calibration:
        fold_temperature(model, 1 / calibration["temperature"])
    if "presence_scale" in calibration:
        scale, shift = calibration["presence_scale"], calibration["presence_shift"]
        fold_presence(model, 1 / scale, -shift / scale)


def batches(
    split: Split, batch_size: int, steps: int, seed: int, first_epoch: int, rows: slice = _ALL
) -> Iterator[Batch]:
    """Endless shuffled batches, `steps` per epoch.

    The order of an epoch depends only on the seed and the epoch's number, so a
    resumed run sees the same batches as an uninterrupted one. An epoch is a
    permutation of the images, or as many as its steps need.

    Args:
        split: The images.
        batch_size: Images per batch.
        steps: Batches per epoch.
        seed: The run's seed.
        first_epoch: Number of the first epoch, from 0 on.
        rows: Which rows of each batch are taken.
    """
    for epoch in itertools.count(first_epoch):
        random = np.random.default_rng([seed, epoch])
        passes = math.ceil(steps * batch_size / len(split))
        order = np.concatenate([random.permutation(len(split)) for _ in range(passes)])
        for index in order[: steps * batch_size].reshape(steps, batch_size):
            yield split.images[index[rows]], split.labels[index[rows]]
