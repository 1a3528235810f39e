"""The networks: layers, augmentation, and the classifier and detector that are built of them."""
