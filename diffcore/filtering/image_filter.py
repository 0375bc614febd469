"""The filter of a study: an encoder, a rule, and the real images that it compares with."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from diffcore.data.splits import Split
from diffcore.filtering import rules
from diffcore.filtering.encoders import Encoder, load_encoder
from diffcore.params import FilteringParams


class ImageFilter:
    """Scores generated images against real ones; parts are loaded and computed when needed."""

    def __init__(
        self, settings: FilteringParams, train: Callable[[], Split], cache_dir: Path | None = None
    ):
        """Take what returns the training images, and the folder that keeps embeddings."""
        self.settings, self._train, self._cache_dir = settings, train, cache_dir

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of images and, if it reads them, texts."""
        return load_encoder(self.settings.encoder, self._cache_dir)

    @cached_property
    def reference(self) -> pd.DataFrame:
        """The training images as the filter compares them: class_name, source_id, embedding."""
        return self.embed(self._train())

    @cached_property
    def threshold(self) -> float:
        """The least similarity that passes: from the settings, or calibrated on real images."""
        return rules.choose_threshold(self.settings, self.reference)

    def embed(self, images: Any) -> pd.DataFrame:
        """Embed a `Split` or `GeneratedSet`: class_name, source_id, context if known, embedding."""
        return rules.embed(images.metadata, images.images, self.encoder)

    def similarity(self, generated: Any, train: Split | None = None) -> tuple[np.ndarray, float]:
        """Compare M generated images with real ones: similarities (M,), and their threshold."""
        reference, threshold = self.reference, self.threshold
        if train is not None:
            reference = self.embed(train)
            threshold = rules.choose_threshold(self.settings, reference)
        embedded = self.embed(generated)
        return rules.cosine_to_reference(embedded, reference, self.settings.rule), threshold
