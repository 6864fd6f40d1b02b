"""A Flower app whose updates are aggregated in secret."""
