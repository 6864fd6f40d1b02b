"""What the protocols and their parts cost, beside each other and beside their peers."""
