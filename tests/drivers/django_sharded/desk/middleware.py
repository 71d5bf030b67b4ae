"""The tenant of a request is in its path."""

import re

import sharding

PATH = re.compile(r"/t/(\d+)/")


class TenantMiddleware:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        found = PATH.match(request.path)
        with sharding.tenant(int(found[1]) if found else None):
            return self.get_response(request)
