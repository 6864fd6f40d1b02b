"""Hospitals that train one classifier on patients they don't share; what ``secagg demo`` runs.

Private to the command line: nothing here is part of the library's surface.
"""
