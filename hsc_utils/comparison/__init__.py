"""Step 05: stored predictions in; differences with intervals, and Tables 1 and 2, out."""
