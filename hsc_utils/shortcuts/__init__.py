"""Step 07: a finished run in; what would do as well without it, and an audit of shortcuts, out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["figures"],
    {
        "audit": [
            "ask_days",
            "ask_surroundings",
            "ask_trivial",
            "ask_views",
            "ask_where",
            "image_views",
            "predict_cell_views",
            "predict_image_views",
            "subject_of",
        ],
        "baselines": ["baseline_table", "score_baselines", "sentence"],
        "features": ["hand_made"],
        "verdicts": ["closing_table", "readable", "summary"],
        "views": ["cell_views", "find_cells", "write_surroundings"],
    },
)
