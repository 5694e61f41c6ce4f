"""Search-R1's ``/retrieve`` as a process of its own, which is slow, fails, and dies when it is told to.

Run as ``python -m tests.search.retrieval_server``; the first line it prints is its port.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

from tests.search.parts import RIVERS


def find(text: str, top_k: int) -> list[dict[str, object]]:
    """By the number of words that a document shares with the query."""
    words = set(text.lower().split())
    scored = [(len(words & set(f"{title} {body}".lower().split())), title, body) for title, body in RIVERS]
    return [
        {"document": {"id": title, "contents": f'"{title}"\n{body}'}, "score": float(score)}
        for score, title, body in sorted(scored, key=lambda row: -row[0])[:top_k]
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slow", type=float, default=0.0, help="seconds before every answer")
    parser.add_argument("--fail-every", type=int, default=0, help="every so many-th request gets status 500")
    parser.add_argument("--die-at", type=int, default=0, help="in the middle of the answer to this request")
    arguments = parser.parse_args()
    numbers = count(1)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            number = next(numbers)
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            time.sleep(arguments.slow)
            if arguments.fail_every and number % arguments.fail_every == 0:
                self.send_error(500)
                return
            answer = json.dumps({"result": [find(text, body["topk"]) for text in body["queries"]]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            if number == arguments.die_at:
                self.wfile.write(answer[: len(answer) // 2])
                self.wfile.flush()
                os._exit(1)
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
