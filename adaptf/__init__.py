"""adaptf: low-complexity acoustic scene classification with one INT8 model per recording device."""

__version__ = "0.1.0"
