"""Step 02: images in; cells, `cells.csv` and their patches out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["figures"],
    {
        "blobs": ["DetectionSettings", "detect_cells", "settings_in_use"],
        "cells": ["cut_patches", "export_png", "extract_cells", "read_patches", "suggest_side"],
        "fast_log": ["blob_log"],
        "matching": ["match_detections", "read_truth"],
        "panel": ["detection_panel"],
        "ready_patches": ["import_patches", "read_ready_patch"],
        "sizes": [
            "empty_findings",
            "size_findings",
            "sizes_to_try",
            "suggest_sizes",
        ],
        "tuning": [
            "agreement_between",
            "METHOD_NAMES",
            "best_of_each",
            "best_settings",
            "grid_findings",
            "make_grid",
            "method_differences",
            "method_findings",
            "rank_methods",
            "run_trials",
            "score_trials",
            "tuning_sample",
        ],
    },
)
