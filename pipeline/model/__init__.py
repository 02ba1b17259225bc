"""What a version is made of: network, scaling, bytes; used by who scores and by who trains."""
