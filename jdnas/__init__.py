"""Joint search of architecture, width and weights for object detectors that run on a given device."""

__version__ = "0.1.0"
