"""Benchmarks: what the protocols and their parts cost, compared with each other and with peers."""
