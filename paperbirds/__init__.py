"""Paperbirds: a world of cut-paper birds in which every step of the method can be measured.

It renders a fine-grained image set of which species, context, distractors and mask are known, and
ships a tiny text-to-image model, a tiny CLIP and an oracle for it. Knows nothing of the study.
"""

from paperbirds.birds import SPECIES
from paperbirds.contexts import CONTEXTS, DISTRACTORS
from paperbirds.dataset import Paperbirds
from paperbirds.render import render
from paperbirds.weights import load_oracle
