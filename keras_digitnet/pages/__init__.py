"""Synthetic training pages: handwritten lines on paper of many kinds, with each digit's box.

A page depends on its random generator alone, so the same seed gives the same pages. The constants
here describe the training data only; nothing that reads a picture uses them.
"""

from keras_digitnet.pages.composer import Composer
from keras_digitnet.pages.frame import Page
from keras_digitnet.pages.glyphs import GlyphSource

__all__ = ["Composer", "GlyphSource", "Page"]
