"""A Flower app whose updates are aggregated securely."""
