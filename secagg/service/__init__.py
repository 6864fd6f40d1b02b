"""The HTTPS service that runs sessions: ``secagg serve``, or :class:`Service` in a training loop of one's own."""

from secagg.service.limits import Limits
from secagg.service.schedule import Schedule
from secagg.service.service import Service

__all__ = ["Limits", "Schedule", "Service"]
