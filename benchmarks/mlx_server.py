"""`mlx_lm.server` with its listen backlog fixed.

Python's HTTP server keeps five connections waiting; with more clients at once the kernel drops
some, and they come back a second later. That would flatter us, so it is mended here.
"""

from __future__ import annotations

from http.server import ThreadingHTTPServer

BACKLOG = 1024


def main() -> None:
    ThreadingHTTPServer.request_queue_size = BACKLOG
    from mlx_lm import server

    server.main()


if __name__ == "__main__":
    main()
