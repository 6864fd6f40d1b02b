"""The documents, and what draws the generated parts of them."""
