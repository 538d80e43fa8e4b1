"""Steps 03 and 04: samples in; a trained model, its predictions and scores out."""
