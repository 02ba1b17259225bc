"""The processes: each wires stages to adapters."""
