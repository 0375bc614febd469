"""Trained classifiers under corruption, attack and other backgrounds, and their calibration."""
