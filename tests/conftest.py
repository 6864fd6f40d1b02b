"""Hypothesis profiles: ``ci`` is bounded and the same every time; ``HYPOTHESIS_PROFILE=deep`` is neither."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, max_examples=50, deadline=None, database=None)
settings.register_profile("deep", max_examples=2000, stateful_step_count=200, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
