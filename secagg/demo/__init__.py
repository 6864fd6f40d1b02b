"""What ``secagg demo`` runs: hospitals train one classifier without sharing their patients.

This package serves the command line only. It is not part of the library's public interface.
"""
