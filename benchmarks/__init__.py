"""Figures, each made by one command: `make bench-NAME`."""
