"""`python -m keras_digitnet` is the command `keras-digitnet`."""

from keras_digitnet.cli import app

app(prog_name="keras-digitnet")
