"""The same shop with connections kept between requests."""

from .settings import *  # noqa: F403
from .settings import DATABASES

DATABASES["default"]["CONN_MAX_AGE"] = 60
DATABASES["default"]["CONN_HEALTH_CHECKS"] = True
