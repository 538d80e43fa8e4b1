"""Step 06: trained models in; Grad-CAM maps, numbers for them, and their checks, out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["figures"],
    {
        "attention": [
            "draw_predicted",
            "in_words",
            "inputs_and_targets",
            "map_findings",
            "measure_cells",
            "measure_images",
            "pick_examples",
            "sentences",
        ],
        "checks": [
            "correlation_by_layer",
            "erasure",
            "erasure_verdict",
            "map_correlation",
            "scrambled_correlations",
            "scrambling_verdict",
        ],
        "maps": ["grad_cam", "layer_at_stride", "resize_maps"],
        "masks": [
            "detected",
            "find_labels",
            "find_masks",
            "find_parts",
            "overlap",
            "own_masks",
            "read_labels",
            "segment_patches",
        ],
    },
)
