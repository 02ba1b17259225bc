"""`python -m pipeline` is `tidemark`."""

from pipeline.cli import main

main()
