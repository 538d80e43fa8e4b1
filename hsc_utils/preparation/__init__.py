"""Step 01: microscope files in, RGB images and `images.csv` out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    ["figures"],
    {
        "acquisition": [
            "Acquisition",
            "ImageSettings",
            "compose_rgb",
            "read_acquisition",
            "read_image",
            "read_picture",
        ],
        "conversion": ["convert"],
        "brightness": ["brightness_by_class", "histograms"],
        "duplicates": ["copies", "refused_copies"],
        "formats": ["AcquisitionError"],
        "prepare": ["folder_groups", "prepare_images"],
        "sources": ["files_below", "list_new_sources", "list_sources"],
    },
)
