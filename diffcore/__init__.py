"""A study of context-guided data augmentation with diffusion models (DiffCoRe-Mix).

The method (Islam & Akhtar, arXiv 2503.10687): a text-to-image model draws counterparts of each
training image from contextual prompts, CLIP's cosine similarity filters them, and the accepted ones
are mixed into the image they came from. One module answers for each step; the notebooks ask.
"""

__version__ = "0.1.0"
