"""Adapters to the stacks in which people already train: containers, deadlines and polling; no cryptography."""
