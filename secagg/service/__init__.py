"""The HTTPS service that runs sessions: ``secagg serve``, or :class:`Service` in a training loop."""
