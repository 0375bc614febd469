"""Tables of embedded images, as filtering takes them."""

import numpy as np
import pandas as pd


def make_images(class_names, source_ids, seed):
    """Images whose embeddings are random unit vectors."""
    vectors = np.random.default_rng(seed).normal(size=(len(class_names), 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    columns = {"class_name": list(class_names), "source_id": list(source_ids)}
    return pd.DataFrame(columns | {"embedding": list(vectors)})


REAL = make_images("abcabcab", "01234567", seed=1)
GENERATED = make_images("aaacbc", "300572", seed=2)
