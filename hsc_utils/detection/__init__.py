"""Step 02: images in; cells, `cells.csv` and their patches out."""
