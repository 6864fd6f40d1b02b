"""The client of the HTTPS service: ``secagg.connect``."""
