"""What the service and its clients agree on: routes, documents, tokens, problems.

Both ``secagg.service`` and ``secagg.remote`` import this package, and neither imports the other.
"""
