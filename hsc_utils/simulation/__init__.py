"""The demo's microscope: simulated acquisitions with known truth, as real OIR files."""
