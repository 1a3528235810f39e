"""The network in plain torch that training speed is compared with."""

import importlib
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, TINY

from keras_digitnet.config import PRESETS, ModelConfig


@pytest.mark.parametrize("config", [TINY, PRESETS["base"].model])
def test_direct_torch_computes_what_ours_does(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from keras_digitnet.model import build_model

    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    peers: Any = importlib.import_module("peers")
    images = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 1), "uint8")
    ours = build_model(config)
    direct = peers.DirectDigitNet(config)
    direct.copy_weights([np.array(weight) for weight in ours.trainable_weights])
    with torch.no_grad():
        logits = direct(torch.tensor(images[..., 0][:, None] / 255, dtype=torch.float32))
    np.testing.assert_allclose(logits.numpy(), np.array(ours(images)), atol=1e-4)
