"""Step 06: trained models in; Grad-CAM maps, numbers for them, and their checks out."""
