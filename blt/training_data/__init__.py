"""Training shards: packed, read by a trainer, and as Meta's trainer reads them."""
