"""What all tests share: hypothesis draws the same examples every time, so that a green run stays green."""

from hypothesis import settings

settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")
