"""Every plot of the notebooks: each takes tables and arrays and returns a matplotlib figure.

Nothing is computed here that a reader would want to check.
"""
