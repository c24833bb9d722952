"""The evidence that is logged: as for cards."""

from suites.evidenced import evidences  # noqa: F401
