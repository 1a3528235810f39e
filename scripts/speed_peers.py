"""The networks that ours are compared with, reimplemented in plain torch from their descriptions.

Their images are kept in memory as tensors, which is faster than the authors'
data loaders. `DirectDigitNet` is our network without Keras. `benchmark.py` runs
`curve` and `throughput` in a process.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from speed_processes import Stopwatch, peak_memory
from torch import nn
from torch.nn import functional

from keras_digitnet.config import CLASSIFIERS, ModelConfig
from keras_digitnet.data import Split, load_dataset

Optimizer = Callable[[Any], torch.optim.Optimizer]


@dataclass(frozen=True)
class Recipe:
    """How a peer is trained.

    Attributes:
        build: Builds the network, from normalized `(N, 1, 28, 28)` images to logits.
        optimizer: Creates the optimizer of its parameters.
        batch_size: Images per step.
        schedule: Called with the optimizer, the steps per epoch and the epochs;
            returns a function to call after every step.
    """

    build: Callable[[], nn.Module]
    optimizer: Optimizer
    batch_size: int
    schedule: Callable[[Any, int, int], Callable[[], None]]


def pytorch_example() -> nn.Module:
    """The network of pytorch/examples, mnist."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


def one_epoch_net() -> nn.Module:
    """The network of tuomaso/train_mnist_fast."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(800, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def _constant(optimizer: Any, steps: int, epochs: int) -> Callable[[], None]:
    return lambda: None


def _step_down(optimizer: Any, steps: int, epochs: int) -> Callable[[], None]:
    return torch.optim.lr_scheduler.StepLR(optimizer, steps, gamma=0.7).step


def _one_cycle(optimizer: Any, steps: int, epochs: int) -> Callable[[], None]:
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.01, total_steps=steps * epochs + 1, cycle_momentum=False
    ).step


RECIPES = {
    "pytorch_example": Recipe(
        pytorch_example, lambda weights: torch.optim.Adadelta(weights, 1.0), 64, _step_down
    ),
    "one_epoch": Recipe(
        one_epoch_net,
        lambda weights: torch.optim.Adam(weights, 0.01, betas=(0.7, 0.9)),
        256,
        _one_cycle,
    ),
    "first_digitnet": Recipe(
        lambda: FirstDigitNet(), lambda weights: torch.optim.AdamW(weights, 1e-3), 128, _constant
    ),
}


class _Norm(nn.LayerNorm):
    """Layer normalization over the channels of `(N, C, H, W)` in channels-last memory format."""

    def forward(self, x: Any) -> Any:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Block(nn.Module):
    """A ConvNeXt block: depthwise convolution, norm, inverted bottleneck, residual sum."""

    def __init__(self, width: int, kernel: int, expansion: int, activation: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width),
            _Norm(width, eps=1e-6),
            # 1x1 convolutions in channels last are faster than nn.Linear on a CPU.
            nn.Conv2d(width, expansion * width, 1),
            activation,
            nn.Conv2d(expansion * width, width, 1),
        )

    def forward(self, x: Any) -> Any:
        return x + self.branch(x)


class FirstDigitNet(nn.Module):
    """The network that this project re-imagines, from its description: a small, plain ConvNeXt."""

    def __init__(self, width: int = 32, blocks: int = 3, expansion: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=4),
            _Norm(width, eps=1e-6),
            *(_Block(width, 7, expansion, nn.GELU()) for _ in range(blocks)),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 10),
        )

    def forward(self, images: Any) -> Any:
        return self.layers(images)


class DirectDigitNet(nn.Module):
    """`keras_digitnet.build_model(config)` without Keras and without augmentation.

    Takes `(N, 1, 28, 28)` floats in [0, 1]; the order of its parameters is that
    of the Keras model's weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        first = config.widths[0]
        layers: list[nn.Module] = [
            nn.Conv2d(1, max(first // 2, 1), 3, padding=1),
            nn.ReLU(),
            # "same" with stride 2 pads an even map only at its end.
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(max(first // 2, 1), first, 3, stride=2),
            _Norm(first, eps=1e-6),
        ]
        before, side = first, 14
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            if stage > 0:
                layers += [_Norm(before, eps=1e-6), nn.Conv2d(before, width, 2, stride=2)]
                before, side = width, side // 2
            for _ in range(depth):
                layers.append(_Block(width, config.kernel_size, config.expansion, nn.ReLU()))
        layers += [
            nn.Conv2d(before, before, side, groups=before),
            nn.Flatten(),
            nn.LayerNorm(before, eps=1e-6),
            nn.Linear(before, config.num_classes),
        ]
        self.layers = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Any) -> Any:
        return self.layers(images.contiguous(memory_format=torch.channels_last))

    def copy_weights(self, weights: list[Any]) -> None:
        """Copies the arrays of a Keras model's trainable weights."""
        for parameter, weight in zip(self.parameters(), weights, strict=True):
            array = torch.as_tensor(weight)
            if array.ndim == 4:  # (height, width, in, out), or depthwise (height, width, C, 1)
                depthwise = parameter.shape[1] == 1 and parameter.shape[0] == array.shape[2]
                array = array.permute((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))
            elif array.ndim == 2:  # a dense layer is a 1x1 convolution inside the blocks
                array = array.T.reshape(parameter.shape)
            parameter.data.copy_(array)


def curve(peer: str, epochs: int, seed: int, data: str) -> dict[str, Any]:
    """Test accuracy over the seconds of training, in the form of `speed_training.curve`."""
    torch.manual_seed(seed)
    dataset = load_dataset(data)
    recipe = RECIPES[peer]
    train = [_tensors(part) for part in (dataset.train, dataset.validation)]
    images, labels = (torch.cat(each) for each in zip(*train, strict=True))
    test_images, test_labels = _tensors(dataset.test)
    net = recipe.build()
    optimizer = recipe.optimizer(net.parameters())
    after_step = recipe.schedule(optimizer, math.ceil(len(images) / recipe.batch_size), epochs)
    watch = Stopwatch()
    for _ in range(epochs):
        net.train()
        watch.start_epoch()
        for index in torch.randperm(len(images)).split(recipe.batch_size):
            _step(net, optimizer, images[index], labels[index])
            after_step()
            watch.end_batch()
        watch.end_epoch()
        watch.accuracies.append(_accuracy(net, test_images, test_labels))
    return watch.curve()


def throughput(preset: str, steps: int) -> Callable[[], dict[str, float]]:
    """Returns a function that trains our network without Keras for some steps.

    It returns images per second and peak memory in MB.
    """
    batch_size = 128
    net = DirectDigitNet(CLASSIFIERS[preset].model)
    optimizer = torch.optim.AdamW(net.parameters(), CLASSIFIERS[preset].learning_rate)
    images, labels = torch.rand(60_000, 1, 28, 28), torch.randint(10, (60_000,))

    def one_round() -> dict[str, float]:
        start = time.perf_counter()
        for index in torch.randperm(len(images)).split(batch_size)[:steps]:
            _step(net, optimizer, images[index], labels[index])
        rate = steps * batch_size / (time.perf_counter() - start)
        return {"rate": rate, "memory": peak_memory()}

    one_round()
    return one_round


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, images: Any, labels: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    functional.cross_entropy(net(images), labels).backward()
    optimizer.step()


def _tensors(split: Split) -> tuple[Any, Any]:
    """`(N, 1, 28, 28)` floats, standardized with MNIST's mean and deviation, and labels."""
    images = torch.tensor(split.images[..., 0][:, None] / 255, dtype=torch.float32)
    return (images - 0.1307) / 0.3081, torch.tensor(split.labels, dtype=torch.int64)


def _accuracy(net: nn.Module, images: Any, labels: Any) -> float:
    net.eval()
    with torch.no_grad():
        answers = torch.cat([net(batch).argmax(1) for batch in images.split(500)])
    return float((answers == labels).float().mean())
