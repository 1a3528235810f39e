"""The learning-rate schedule."""

import math
from typing import Any

import keras
import numpy as np

from keras_digitnet.config import TrainConfig


def learning_rate_at(epoch: float, config: TrainConfig) -> float:
    """Linear warm-up to the peak, then cosine decay to 0.

    Args:
        epoch: Epochs since the start; may be fractional.
        config: Peak learning rate, epochs of the warm-up and of the run.
    """
    peak = config.peak_learning_rate
    if epoch < config.warmup_epochs:
        return peak * epoch / config.warmup_epochs
    progress = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@keras.saving.register_keras_serializable(package="keras_digitnet")
class StepRates(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of every step, as a table that the optimizer indexes.

    The rate changes inside the compiled step: on JAX, setting it from outside
    takes half as long as a step. After the last step it stays constant. Under
    mixed_float16 the optimizer does not count steps that it skips because
    their gradients are not finite.
    """

    def __init__(self, config: TrainConfig, steps: int) -> None:
        self._config = config
        self._steps = steps
        middles = (np.arange(config.epochs * steps) + 0.5) / steps
        rates = [learning_rate_at(float(epoch), config) for epoch in middles]
        self._rates = np.array(rates, "float32")

    def __call__(self, step: Any) -> Any:
        return keras.ops.take(self._rates, keras.ops.minimum(step, len(self._rates) - 1))

    def get_config(self) -> dict[str, Any]:
        return {"config": self._config.to_json(), "steps": self._steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "StepRates":
        return cls(TrainConfig.from_json(config["config"]), config["steps"])


class WarmupCosine(keras.callbacks.LearningRateScheduler):
    """Reports the learning rate of an epoch's last step, which `StepRates` has set."""

    def __init__(self, config: TrainConfig, steps: int) -> None:
        super().__init__(schedule=lambda epoch, _: learning_rate_at(epoch, config))
        self._steps = steps

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        pass

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.schedule(epoch + 1 - 0.5 / self._steps, None)
