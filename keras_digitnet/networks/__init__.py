"""The networks: layers, augmentation, and the classifier and detector built from them."""
