"""Adapters for frameworks in which people already train: containers, deadlines and polling, but no cryptography."""
