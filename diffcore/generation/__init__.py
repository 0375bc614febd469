"""Generation: counterparts of training images, drawn by a text-to-image model or brought in."""

from diffcore.generation.draw import GENERATED_COLUMNS, GeneratedSet, generate, read_generated
from diffcore.generation.pipelines import LazyPipeline, hash_model, load_pipeline

__all__ = [
    "GENERATED_COLUMNS", "GeneratedSet", "LazyPipeline", "generate", "hash_model", "load_pipeline",
    "read_generated",
]  # fmt: skip
