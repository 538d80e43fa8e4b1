"""Steps 03 and 04: samples in; a trained model, its predictions and scores out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["figures"],
    {
        "batches": [
            "augment",
            "augmented_pictures",
            "image_arrays",
            "resize",
            "to_input",
        ],
        "device": [
            "device_name",
            "find_device",
            "full_memory_explained",
            "is_out_of_memory",
            "single_precision",
        ],
        "features": ["embed"],
        "fit": ["predict"],
        "folds": ["cross_validate"],
        "models": [
            "estimate_statistics",
            "PAPER_ARCHITECTURES",
            "WeightsError",
            "build_model",
            "load_run",
            "starting_weights",
        ],
        "report": [
            "confident_mistakes",
            "curves",
            "levels_side_by_side",
            "reliability",
            "score_table",
            "scores_note",
            "sentences",
            "vote",
            "vote_sentences",
        ],
        "samples": ["check_samples"],
        "train": ["TrainingSettings", "train"],
    },
)
