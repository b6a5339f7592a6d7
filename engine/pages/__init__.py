"""Reports that people read: pages of HTML, plots in SVG, and text."""
