"""Candidates in, versions out; what happened, kept."""
