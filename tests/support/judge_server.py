"""A judge on loopback, with an OpenAI-compatible address."""

import itertools
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Nothing is said of who did not wait for an answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def running_judge() -> Iterator[ThreadingHTTPServer]:
    """A server at `url`: `say` decides what it answers, a status, text or bytes or a JSON reply, and headers if any; `seen` is
    what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.seen.append({"path": self.path, "authorization": self.headers["Authorization"], **body})
            status, said, *headers = state.say(body["messages"][-1]["content"], len(state.seen))
            reply = {"choices": [{"message": {"content": said}}]} if isinstance(said, str) else said
            content = said if isinstance(said, bytes) else json.dumps(reply).encode()
            self.send_response(status)
            for name, value in itertools.chain(*(each.items() for each in headers)):
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    state = Server(("127.0.0.1", 0), Handler)
    state.seen, state.say = [], lambda asked, n: (200, "yes")
    state.url = f"http://127.0.0.1:{state.server_port}/v1"
    thread = threading.Thread(target=state.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.shutdown()
        state.server_close()
