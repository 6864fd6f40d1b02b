"""What turns docs/ into the site that ``make docs-site`` builds: extensions of Sphinx, and the drawings."""
