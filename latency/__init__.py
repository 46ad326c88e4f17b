"""Measured latency: targets, tables of fused blocks, a predictor and an FPS report."""
