"""Utilities behind the notebooks: a folder per step over a ground floor that all steps share.

Steps, in the order of the notebooks: `preparation`, `detection`, `training`, `comparison`,
`explanation`; the demo's microscope is `simulation`. Each shows its verbs by ``dir()``.
Ground: `study` (folders and runs), `files`, `provenance`, `manifest` (the tables), `metrics`,
`paper` (the paper's own numbers), `drawing`, and `run` (one notebook in batch).
"""
