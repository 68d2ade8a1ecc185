"""The vendor of the tutorial: a parrot behind an HTTP API of its own. It says again what it heard last."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Parrot(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers.get("x-parrot-key") != "polly":
            return self.answer(401, "application/json", json.dumps({"error": "Who are you?"}))
        words = asked["lines"][-1]["words"]
        counted = {"heard": sum(len(line["words"].split()) for line in asked["lines"]), "said": len(words.split())}
        if not asked["live"]:
            return self.answer(200, "application/json", json.dumps({"words": words, "counted": counted}))
        events = [f"event: words\ndata: {json.dumps({'words': f'{word} '})}\n\n" for word in words.split()]
        events.append(f"event: done\ndata: {json.dumps({'counted': counted})}\n\n")
        return self.answer(200, "text/event-stream", "".join(events))

    def answer(self, status: int, kind: str, text: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PARROT_PORT", "4100"))), Parrot)
print(f"The parrot listens on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
