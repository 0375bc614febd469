"""Paperbirds: a world of cut-paper birds in which every step of the method can be measured.

It renders a fine-grained image set of which species, context, distractors and mask are known. A
tiny text-to-image model, a tiny CLIP and an oracle for it ship with the package.
"""

from paperbirds.birds import SPECIES
from paperbirds.contexts import CONTEXTS, DISTRACTORS
from paperbirds.dataset import render_split
from paperbirds.oracle import load_oracle
from paperbirds.render import render
