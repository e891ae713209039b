"""A victim behind a server of this test's own, on the loopback interface."""

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from tests.victims import random_linear
from zeroth.attacks import RGESign
from zeroth.networks import HTTPVictim
from zeroth.oracles import LabelOracle, ScoreOracle

NET = random_linear(5, 16)
IMAGES = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = NET(IMAGES).argmax(1)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        images = np.load(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"]))))
        server.requests.append((len(images), self.headers.get("Authorization")))
        if server.faults:
            self.send_error(server.faults.pop(0))
            return
        logits = NET(torch.from_numpy(images)).numpy()
        kind, body = "application/json", json.dumps({"scores": logits.tolist()}).encode()
        if server.style == "npy":
            kind, out = "application/octet-stream", io.BytesIO()
            np.save(out, logits)
            body = out.getvalue()
        elif server.style == "labels":
            body = json.dumps(logits.argmax(1).tolist()).encode()
        elif server.style == "text":
            kind, body = "text/plain", b"hello"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if server.style == "short":
            self.send_header("Content-Length", "99999")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.requests, http.faults, http.style = [], [], "json"
        http.url = f"http://127.0.0.1:{http.server_address[1]}/classify"
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield http
        http.shutdown()


@pytest.mark.parametrize("style", ["json", "npy"])
def test_scores_are_the_models(server, style):
    server.style = style
    victim = HTTPVictim(server.url, headers={"Authorization": "Bearer key"})
    assert torch.allclose(ScoreOracle(victim, max_batch=3)(IMAGES), NET(IMAGES).log_softmax(1).float(), atol=1e-5)
    assert server.requests == [(3, "Bearer key"), (3, "Bearer key"), (1, "Bearer key")]


def test_labels_alone_do_for_a_label_oracle(server):
    server.style = "labels"
    assert torch.equal(LabelOracle(HTTPVictim(server.url))(IMAGES), LABELS)


def test_an_attack_over_http_is_the_attack_on_the_model_itself(server):
    attack = RGESign(samples=5)
    ours = attack(ScoreOracle(HTTPVictim(server.url)), IMAGES, LABELS, budget=40, seed=0)
    theirs = attack(ScoreOracle(NET), IMAGES, LABELS, budget=40, seed=0)
    assert torch.equal(ours.queries, theirs.queries) and torch.equal(ours.success, theirs.success)
    assert sum(count for count, _ in server.requests) == int(ours.queries.sum())


def test_passing_faults_are_retried_and_lasting_ones_reported(server):
    server.faults = [503, 429]
    victim = HTTPVictim(server.url, retries=2, pause=0.0)
    assert torch.equal(LabelOracle(victim)(IMAGES), LABELS)
    assert len(server.requests) == 3
    server.faults = [500] * 3
    with pytest.raises(ConnectionError, match=r"did not answer \(status 500 .*3 tries\).*what it has answered is kept"):
        victim(IMAGES)
    server.faults = [404]
    with pytest.raises(ConnectionError, match=r"status 404 Not Found, 1 tries"):
        victim(IMAGES)
    server.style = "text"
    before = len(server.requests)
    with pytest.raises(ValueError, match="answered text/plain that holds no array of numbers"):
        victim(IMAGES)
    assert len(server.requests) == before + 1
    server.style = "short"
    with pytest.raises(ConnectionError, match=r"IncompleteRead.*3 tries"):
        victim(IMAGES)
    with pytest.raises(ConnectionError, match="refused"):
        HTTPVictim("http://127.0.0.1:9/", retries=0)(IMAGES)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="url must begin with http:// or https://, got 'ftp://x'"):
        HTTPVictim("ftp://x")
    with pytest.raises(ValueError, match="timeout must be > 0"):
        HTTPVictim("http://x", timeout=0)
