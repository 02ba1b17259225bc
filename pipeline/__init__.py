"""Continual learning on unlabelled sensor streams.

    Kafka ── ingest ── score ── detect ──┬── (no change) ── next poll
                                         └── boundary ── consolidate ── register ── serve

A folder is a stage and is named for what happens; a file is named for the thing that does it.
Files named after a technology (``kafka_source.py``, ``sql.py``) are adapters of a port in
``ports.py``.
"""

__version__ = "0.1.0"
