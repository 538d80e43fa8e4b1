"""The demo's microscope: simulated acquisitions with known truth, as real OIR files."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [],
    {
        "oir": ["write_oir"],
        "planted": ["ceilings"],
        "simulate": ["DEMO_COUNTS", "write_demo", "write_new_day"],
        "specimen": ["TRAITS"],
    },
)
