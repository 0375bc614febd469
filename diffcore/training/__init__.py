"""Training classifiers: networks, one training, and many of them."""
