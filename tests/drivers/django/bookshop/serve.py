"""A WSGI server with a fixed set of threads, printing its port when it is ready.

SERVE is where it listens (host:port); without it, a free port of the loopback interface.
"""

import concurrent.futures
import os
import sys
import wsgiref.simple_server


class Server(wsgiref.simple_server.WSGIServer):
    """Threads live on between requests, as in gunicorn, so that CONN_MAX_AGE means something."""

    request_queue_size = 128
    threads = concurrent.futures.ThreadPoolExecutor(max_workers=16)

    def process_request(self, request, client_address):
        self.threads.submit(self.in_thread, request, client_address)

    def in_thread(self, request, client_address):
        try:
            self.finish_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
        finally:
            self.shutdown_request(request)


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def log_request(self, code="-", size="-"):
        if str(code).startswith("5"):
            super().log_request(code, size)


def main():
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bookshop.settings")
    from django.core.wsgi import get_wsgi_application

    host, port = os.environ.get("SERVE", "127.0.0.1:0").rsplit(":", 1)
    server = wsgiref.simple_server.make_server(host, int(port), get_wsgi_application(), Server, Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
