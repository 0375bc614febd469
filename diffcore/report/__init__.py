"""Reports: running notebooks, what they record, their pages, the claims, and a comparison."""
