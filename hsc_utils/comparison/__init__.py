"""Step 05: stored predictions in; differences, Tables 1 and 2, and verdicts out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["figures"],
    {
        "claims": ["write_claims"],
        "compare": [
            "ComparisonError",
            "compare",
            "conclusions",
            "find_runs",
            "find_runs_on_slices",
            "holm",
            "leave_one_out_scores",
            "missing_slices",
            "read_predictions",
            "readable",
            "refuse_mixtures",
            "roc_curves",
            "scored_subset",
            "trained_once",
            "verdict",
        ],
        "paper_tables": ["write_tables"],
    },
)
