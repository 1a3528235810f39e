"""Pictures: files, decoding to grey pixels, and MNIST's form of a digit."""
