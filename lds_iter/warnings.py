"""The warnings of this package, as classes, so that they can be filtered or turned into errors."""


class PerformanceWarning(UserWarning):
    """The result is right, but was computed the slow way, step by step."""
