"""The read side: questions in, answers out."""
