"""Batches in, anomaly scores out."""
