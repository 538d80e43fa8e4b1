"""Utilities behind the notebooks: one module a step, files handed over between steps."""
