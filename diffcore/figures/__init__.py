"""Figures by kind of chart: tidy tables and arrays of images in, matplotlib figures out."""

from diffcore.figures.charts import heat_maps, histograms, reliability_diagrams
from diffcore.figures.grid import counterparts, image_grid, overlay, pipeline_diagram, saliency_grid
from diffcore.figures.intervals import interval_dots, interval_lines, overhead_accuracy
from diffcore.figures.style import (
    DASHED,
    METHODS,
    OTHERS,
    as_percent,
    colours,
    label_of,
    put_legend,
    use_style,
    wrap,
)
