"""Pages composed at random: handwritten lines on all kinds of paper, and where each digit is.

What a page shows follows from its random generator alone, so that the same seed gives the same
pages. The numbers here are what the world looks like, not what is read: nothing that reads a
picture uses them.
"""

from keras_digitnet.pages.composer import Composer
from keras_digitnet.pages.frame import Page
from keras_digitnet.pages.glyphs import GlyphSource

__all__ = ["Composer", "GlyphSource", "Page"]
