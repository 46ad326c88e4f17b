"""Serving exported detectors over HTTP with the Open Inference Protocol v2."""
