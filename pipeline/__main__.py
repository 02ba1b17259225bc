"""`python -m pipeline` is `tidemark`."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
