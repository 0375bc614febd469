"""Training classifiers: one, many of them, sweeps over what decides, and their settings."""
