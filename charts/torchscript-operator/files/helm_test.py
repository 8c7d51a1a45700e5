"""What `helm test` runs: makes a tiny model, lets the operator export and serve it, and compares the answer.

The pod is the model's Hugging Face Hub for as long as it lives: neither the internet nor a bucket for models is needed.
Environment: TEST_MODEL, the TorchScriptModel to apply, as JSON; TEST_TIMEOUT_SECONDS.
"""

import contextlib
import hashlib
import http.server
import json
import math
import os
import signal
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PORT = 8081
COMMIT = hashlib.sha1(b"helm test", usedforsecurity=False).hexdigest()
SENTENCES = ("the cat sat on the mat", "hello")
WORDS = ("the", "cat", "sat", "on", "mat", "hello")
TOLERANCE = 1e-4
DELETION_SECONDS = 60
"""For the operator to remove the artifact, once the model is deleted."""


def make_model(folder: Path) -> list[list[float]]:
    """Write a BERT of some kilobytes, as Transformers saves it; what it makes of SENTENCES in eager mode."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: index for index, token in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special[1]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    torch.manual_seed(1)
    model = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
    ).eval()
    model.save_pretrained(folder, safe_serialization=True)
    with torch.no_grad():
        ids = [torch.tensor([tokenizer.encode(sentence).ids]) for sentence in SENTENCES]
        return [model(each).last_hidden_state.mean(1)[0].tolist() for each in ids]


def hub(folder: Path, repository: str) -> type[http.server.BaseHTTPRequestHandler]:
    """As much of the Hub's API as an export uses, for one repository."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    information = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in sorted(files)]}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            name = path.removeprefix(f"/{repository}/resolve/{COMMIT}/")
            if path.startswith(f"/api/models/{repository}"):
                self.answer(200, json.dumps(information).encode(), {"Content-Type": "application/json"})
            elif name in files:
                content = files[name].read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                self.answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
            else:
                self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})

        def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    return Handler


@contextlib.contextmanager
def serving(folder: Path, repository: str, port: int = PORT) -> Iterator[int]:
    """Be the Hub, at a port."""
    server = http.server.ThreadingHTTPServer(("", port), hub(folder, repository))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def call(method: str, path: str, body: Json | None = None) -> Json | None:
    """Ask the API server; None where there is nothing."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    address = f"[{host}]" if ":" in host else host
    token = (ACCOUNT / "token").read_text()
    request = urllib.request.Request(
        f"https://{address}:{port}{path}",
        json.dumps(body).encode() if body else None,
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method=method,
    )
    trusted = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt")))
    # No proxy stands between a pod and its own API server.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), trusted)
    try:
        with opener.open(request, timeout=30) as response:
            found: Json = json.load(response)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.NOT_FOUND and method != "POST":
            return None
        raise SystemExit(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error
    return found


def remove(path: str) -> None:
    """Delete the model and wait until it is gone, its artifact with it."""
    deadline = time.monotonic() + DELETION_SECONDS
    found = call("DELETE", path)
    while found is not None and time.monotonic() < deadline:
        time.sleep(1)
        found = call("GET", path)
    if found is not None:
        print(f"still there after {DELETION_SECONDS} s: {path}", flush=True)


def wait(path: str, deadline: float) -> Json:
    """Wait until the model is Ready; every change of a condition is a line. Exits with why it is not."""
    said: dict[str, str] = {}
    while True:
        model = call("GET", path) or {}
        conditions = {each["type"]: each for each in model.get("status", {}).get("conditions", [])}
        for name, each in conditions.items():
            line = f"{name}={each['status']} {each['reason']}: {each['message']}"
            if said.get(name) != line:
                said[name] = line
                print(line, flush=True)
        stalled = conditions.get("Stalled", {})
        if stalled.get("status") == "True":
            raise SystemExit(f"The model stalled: {stalled['reason']}: {stalled['message']}")
        if conditions.get("Ready", {}).get("status") == "True":
            return model
        if time.monotonic() > deadline:
            raise SystemExit("The model is not Ready in time; see the conditions above and the operator's log.")
        time.sleep(1)


def ask(model: Json, deadline: float) -> list[list[float]]:
    """The embeddings that the model's Service answers; nodes may learn of its pods a moment after they are Ready."""
    body = {"model": model["metadata"]["name"], "input": list(SENTENCES)}
    url = f"{model['status']['serving']['url']}/v1/embeddings"
    print(f"POST {url}", flush=True)
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(request, timeout=30) as response:
                return [item["embedding"] for item in json.load(response)["data"]]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"The model answers {error.code}: {error.read().decode(errors='replace')}") from error
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"The model does not answer: {error}") from error
            time.sleep(1)


def difference(one: list[list[float]], other: list[list[float]]) -> float:
    """Largest absolute difference; infinite where the shapes differ or a number is none."""
    if [len(row) for row in one] != [len(row) for row in other]:
        return math.inf
    found = max(abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))
    return found if math.isfinite(found) else math.inf


def main() -> None:
    """Run the test; the exit code is its result."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    deadline = time.monotonic() + int(os.environ["TEST_TIMEOUT_SECONDS"])
    model: Json = json.loads(os.environ["TEST_MODEL"])
    metadata = model["metadata"]
    models = f"/apis/{model['apiVersion']}/namespaces/{metadata['namespace']}/torchscriptmodels"
    path = f"{models}/{metadata['name']}"
    folder = Path("/tmp/model")  # noqa: S108 -- the pod's own
    remove(path)
    expected = make_model(folder)
    with serving(folder, model["spec"]["source"]["huggingFace"]["repository"]):
        call("POST", models, model)
        try:
            answer = ask(wait(path, deadline), deadline)
        finally:
            remove(path)
    found = difference(answer, expected)
    if found > TOLERANCE:
        raise SystemExit(f"The answer differs from what Transformers computes by {found}.")
    print(f"The answer is what Transformers computes: no number differs by more than {found:.1e}.", flush=True)


if __name__ == "__main__":
    main()
