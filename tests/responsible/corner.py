"""An encoder and vectors of which the distances can be seen."""

import numpy as np


class Corner:
    """An encoder that sees the mean colour of the upper left quarter alone."""

    def embed_images(self, images):
        corner = images[:, : images.shape[1] // 2, : images.shape[2] // 2].mean((1, 2)) + 1.0
        return corner / np.linalg.norm(corner, axis=1, keepdims=True)


def spaces(values):
    """The same points on a line in both spaces, for distances that can be seen."""
    points = np.array(values, float)[:, None, None]
    angle = np.concatenate([np.cos(points), np.sin(points)], axis=2)
    return {"embedding": angle, "pixels": points}
