"""What every stage reads and writes: plans, units, manifests, rejects, and files that are whole."""
