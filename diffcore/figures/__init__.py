"""Figures by kind of chart: tidy tables and arrays of images in, matplotlib figures out.

A method keeps its name and colour in every figure (`METHODS`). Intervals are columns ``value, low,
high``. A hollow dot is a difference whose interval holds zero, or one that Holm's correction leaves
unclear, as the legend says.
"""

from diffcore.figures.charts import boxes, curves, histograms, reliability_diagrams, threshold_view
from diffcore.figures.grids import counterparts, image_grid, overlay, saliency_grid
from diffcore.figures.intervals import interval_dots, interval_lines, overhead_accuracy
from diffcore.figures.maps import heat_maps, object_bars, stacked_bars
from diffcore.figures.schematic import pipeline_diagram
from diffcore.figures.style import METHODS, use_style, wrap
