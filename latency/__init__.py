"""Latency of detectors on target devices: measured, tabulated and predicted."""
