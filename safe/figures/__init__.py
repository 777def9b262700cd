"""How do predictions and tables become figures that can be read in print?

One file a figure, each with `draw_<figure>(..., out)`, which writes one file, and
`<figure>_figure(...)`, which makes the matplotlib figure of it; `canvas.py` holds what all share.
"""
