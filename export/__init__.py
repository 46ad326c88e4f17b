"""Detectors as ONNX files and engines, and proof that they still compute the same."""
