"""What the package exists for, on the real thing; skipped where there is no MNIST."""

import pytest

from keras_digitnet.config import TrainConfig
from keras_digitnet.data import Dataset
from keras_digitnet.training import train

pytestmark = pytest.mark.backends


def test_nano_reads_95_percent_after_one_epoch(mnist: Dataset, tmp_path: object) -> None:
    run = train(
        TrainConfig(preset="nano", data=mnist.source, epochs=1, warmup_epochs=0.3),
        mnist,
        out_dir=str(tmp_path),
        verbose=2,
    )
    assert run.test is not None
    assert run.test.n == 10_000
    assert run.test.accuracy >= 0.95
    assert (run.folder.servable_dir / "1" / "saved_model.pb").is_file()
