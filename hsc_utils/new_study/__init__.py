"""Your own study: a folder of images in; a configuration file that takes it to a book, out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    [],
    {"look": ["look_at"], "write": ["limits", "next_steps", "seen", "write_config"]},
)
