"""A second look at each character that a reader found: is it one, and which?"""

from collections.abc import Sequence

import numpy as np

from keras_digitnet.pictures.window import window
from keras_digitnet.reading.finding import Character
from keras_digitnet.reading.inference import Classifier

# The verifier's last class, of windows without a character in their middle.
NONE = "none"
# The weights of the log odds that the reader and the verifier give to a character's presence, and
# of the log probabilities that the verifier gives to its classes beside the reader's.
_FOUND, _VERIFIED, _NAMED = 0.5, 1.0, 1.0
_LEAST = 1e-4  # the smallest probability that counts, so that neither overrules the other


def verified(
    grey: np.ndarray, characters: Sequence[Character], verifier: Classifier
) -> list[Character]:
    """The same characters, with the presence and classes that both models support.

    Args:
        grey: `(H, W)` uint8, the picture.
        characters: What the reader found in it.
        verifier: Classifies windows; its classes are the reader's and `NONE`.

    Raises:
        DigitNetError: The verifier fails.
    """
    if not characters:
        return []
    windows = np.stack([window(grey, each.box) for each in characters])
    answers = np.clip(verifier.predict(windows).probabilities, _LEAST, 1 - _LEAST)
    return [
        Character(
            each.box,
            _presence(each.presence, 1 - float(answer[-1])),
            _classes(each.probabilities, answer[:-1]),
        )
        for each, answer in zip(characters, answers, strict=True)
    ]


def _presence(found: float, verified: float) -> float:
    odds = (found / (1 - min(found, 1 - _LEAST))) ** _FOUND * (
        verified / (1 - verified)
    ) ** _VERIFIED
    return odds / (1 + odds)


def _classes(of_reader: np.ndarray, of_verifier: np.ndarray) -> np.ndarray:
    """`(C,)` probabilities: a product of experts."""
    product = (of_reader + _LEAST) * of_verifier**_NAMED
    return product / product.sum()
