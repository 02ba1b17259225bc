"""Records in, columnar batches out."""
