"""Every figure of the study: one function each, from tidy tables and image arrays.

One module a notebook, and `style`, which they share: a measure or a method keeps its colour
everywhere. All are to be had from here, as in ``figures.image_grid(...)``.
"""

from diffcore.figures.filtering import (
    auc_dots,
    pair_boxes,
    rejection_curves,
    roc_curves,
    similarity_distributions,
    threshold_view,
)
from diffcore.figures.generation import context_maps, paired_rates, rates_over
from diffcore.figures.images import image_grid
from diffcore.figures.mixing import label_curves, lam_histograms, object_bars
from diffcore.figures.overhead import amortised_curves, overhead_accuracy, step_overheads, time_bars
from diffcore.figures.report import effect_dots
from diffcore.figures.robustness import (
    corruption_map,
    nearest_histograms,
    reliability_diagrams,
    robustness_dots,
    severity_curves,
)
from diffcore.figures.saliency import (
    cascade_curves,
    mistake_dots,
    overlay,
    saliency_dots,
    saliency_grid,
    technique_dots,
)
from diffcore.figures.style import MEASURES, METHODS, PALETTE, use_style, wrap
from diffcore.figures.training import (
    accuracy_dots,
    accuracy_over,
    gain_dots,
    gains_over,
    learning_curves,
)

__all__ = [
    "MEASURES",
    "METHODS",
    "PALETTE",
    "accuracy_dots",
    "accuracy_over",
    "amortised_curves",
    "auc_dots",
    "cascade_curves",
    "context_maps",
    "corruption_map",
    "effect_dots",
    "gain_dots",
    "gains_over",
    "image_grid",
    "label_curves",
    "lam_histograms",
    "learning_curves",
    "mistake_dots",
    "nearest_histograms",
    "object_bars",
    "overhead_accuracy",
    "overlay",
    "pair_boxes",
    "paired_rates",
    "rates_over",
    "rejection_curves",
    "reliability_diagrams",
    "robustness_dots",
    "roc_curves",
    "saliency_dots",
    "saliency_grid",
    "severity_curves",
    "similarity_distributions",
    "step_overheads",
    "technique_dots",
    "threshold_view",
    "time_bars",
    "use_style",
    "wrap",
]
