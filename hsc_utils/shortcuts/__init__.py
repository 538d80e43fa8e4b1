"""Step 07: a finished run in; what would do as well without it, out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [],
    {
        "baselines": ["baseline_table", "score_baselines", "sentence"],
        "features": ["hand_made"],
    },
)
