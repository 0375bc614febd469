"""Figures by kind of chart: tidy tables and arrays of images in, matplotlib figures out."""

from diffcore.figures.charts import boxes, curves, histograms, reliability_diagrams, threshold_view
from diffcore.figures.grid import counterparts, image_grid, overlay, pipeline_diagram, saliency_grid
from diffcore.figures.intervals import interval_dots, interval_lines, overhead_accuracy
from diffcore.figures.maps import heat_maps, object_bars, stacked_bars
from diffcore.figures.style import METHODS, use_style, wrap
