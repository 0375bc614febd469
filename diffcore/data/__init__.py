"""Data: real images of any set behind one face, paired with generated ones."""
