"""Step 01: microscope files in, RGB images and `images.csv` out."""
