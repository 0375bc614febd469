"""Generation: counterparts of training images, drawn by a text-to-image model or brought in."""

from diffcore.generation.draw import generate, read_generated
from diffcore.generation.pipelines import load_pipeline
