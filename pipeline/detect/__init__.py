"""Signals in, task boundaries out."""
