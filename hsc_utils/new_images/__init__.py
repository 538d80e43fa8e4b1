"""Step 08: a finished run and new images in; probabilities, warnings and a model card out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["figures"],
    {
        "model_card": ["write_model_card"],
        "passport": ["read_passport", "write_passport"],
        "members": ["load_members"],
        "predict": ["predict_images"],
        "report": [
            "cell_pictures",
            "coverage",
            "differing_questions",
            "distances_by_set",
            "field_picture",
            "internal_predictions",
            "read_tables",
            "scores_side_by_side",
            "sentences",
            "surest_and_least_sure",
            "unlike_rates",
            "unnoticed",
        ],
    },
)
