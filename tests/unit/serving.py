"""A serving application around a toy model, without a process: for tests of runner, routes and protocols."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import uvicorn
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.unit.artifacts import manifest
from torchscript_operator.artifact.manifest import Axis, Manifest, Pooling, TensorSpec
from torchscript_operator.artifact.request import ServeRequest, Shape, StoreLocation
from torchscript_operator.serve.access import Tls, Tokens
from torchscript_operator.serve.connection import Bounds, bounded
from torchscript_operator.serve.engine import Engine, Limits
from torchscript_operator.serve.http import application
from torchscript_operator.serve.rpc import Listener
from torchscript_operator.serve.runner import TorchRunner
from torchscript_operator.serve.settings import Settings
from torchscript_operator.serve.state import Model, State
from torchscript_operator.serve.tasks import for_manifest
from torchscript_operator.serve.tokenizing import Tokenizing

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(60))]
WIDTH = 4
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
DIGEST = "sha256:" + "ab" * 32
VERSION = "ab" * 6


class Toy(torch.nn.Module):
    """Each token's vector depends on all attended tokens of its row, and on where it stands."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> tuple[torch.Tensor]:
        self.sizes.append(tuple(ids.shape))
        attended = (ids * mask).sum(dim=1, keepdim=True).float()
        place = torch.arange(ids.shape[1]).float()
        base = torch.sin(ids.float() + attended + 0.1 * place + types)
        return (torch.stack([base * (number + 1) + number for number in range(WIDTH)], dim=-1),)


def toy_manifest(*, batch: str = "dynamic", sequence: str = "dynamic", **changes: Any) -> Manifest:
    axes: Any = (Axis(name="batch", kind=batch), Axis(name="sequence", kind=sequence))  # type: ignore[arg-type]
    given: dict[str, Any] = {
        "shapes": (Shape(batch=1, sequence=8), Shape(batch=4, sequence=8), Shape(batch=4, sequence=16)),
        "inputs": tuple(TensorSpec(name=name, dtype="INT64", axes=axes) for name in INPUTS),
        "outputs": (
            TensorSpec(
                name="last_hidden_state", dtype="FP32", axes=(*axes, Axis(name="feature", kind="fixed", size=WIDTH))
            ),
        ),
        "pooling": Pooling(mode="mean", normalize=True, origin="sentence-transformers"),
        "maximum_sequence": 16,
    }
    return manifest(**(given | changes))


def toy_runner(found: Manifest | None = None, toy: Any = None, *, maximum_rows: int = 8) -> TorchRunner:
    found = found or toy_manifest()
    return TorchRunner(
        found,
        {None: toy or Toy()},
        for_manifest(found),
        pad_id=0,
        maximum_rows=maximum_rows,
        maximum_tokens=64,
    )


def toy_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(VOCABULARY)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=7)
    return tokenizer


def toy_tokenizing() -> Tokenizing:
    return Tokenizing(toy_tokenizer(), INPUTS, {"vocab_size": len(VOCABULARY), "type_vocab_size": 2})


def expected(texts: list[str]) -> list[list[float]]:
    """The toy's embeddings, each text alone and without padding."""
    tokenizing, runner = toy_tokenizing(), toy_runner()
    return [runner.run(tokenizing.encode([text]), alone=True).results[0].tolist() for text in texts]


def make_state(runner: TorchRunner, tokenizing: Tokenizing | None = None, **changes: Any) -> State:
    """A ready state; its engine starts on the running loop."""
    settings = Settings(**({"grpc_port": 0, "host": "127.0.0.1"} | changes))
    state = State(
        ServeRequest(model="ns/toy", target="cpu", artifact=StoreLocation(uri="file:///x/key"), digest=DIGEST),
        settings,
    )
    limits = Limits(settings.queue_rows, settings.queue_tokens, forward_seconds=settings.forward_seconds)
    engine = Engine(runner, limits, state.metrics)
    engine.start(asyncio.get_running_loop())
    state.model = Model(runner.manifest, runner.task, tokenizing or toy_tokenizing(), runner.buckets, engine)
    state.enter("serve")
    return state


@asynccontextmanager
async def serving(
    found: Manifest | None = None, toy: Any = None, runner: Any = None, **changes: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, State]]:
    """A client of a ready application."""
    state = make_state(runner or toy_runner(found, toy), **changes)
    assert state.model is not None
    engine = state.model.engine
    tokens = Tokens(Path(state.settings.token_file)) if state.settings.token_file else None
    transport = httpx.ASGITransport(application(state, tokens), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://toy") as client:
        yield client, state
    engine.stop(5)
    state.executor.shutdown()


@dataclass(frozen=True)
class Live:
    """A server on this machine's loopback."""

    url: str
    grpc: str
    state: State

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.rpartition("/")[2].partition(":")
        return host, int(port)


@contextmanager
def live(
    found: Manifest | None = None,
    toy: Any = None,
    tls: Tls | None = None,
    model: tuple[TorchRunner, Tokenizing] | None = None,
    **changes: Any,
) -> Iterator[Live]:
    """Both protocols over real sockets, on a loop in a thread of its own. model: in place of the toy."""
    started: list[Any] = []
    ready = threading.Event()

    async def serve() -> None:
        runner, tokenizing = model or (toy_runner(found, toy), None)
        state = make_state(runner, tokenizing, **changes)
        settings = state.settings
        tokens = Tokens(Path(settings.token_file)) if settings.token_file else None
        bounds = Bounds(
            connections=settings.connections,
            head_bytes=settings.head_bytes,
            head_seconds=settings.head_seconds,
            write_seconds=settings.write_seconds,
            metrics=state.metrics,
        )
        listener = Listener(state, tokens, tls)
        grpc_port = await listener.start()
        config = uvicorn.Config(
            application(state, tokens),
            port=0,
            lifespan="off",
            ws="none",
            log_config=None,
            http=bounded(bounds),
            ssl_context_factory=None if tls is None else lambda _config, _default: tls.context,
        )
        server = Quiet(config)
        task = asyncio.ensure_future(server.serve())
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        scheme = "http" if tls is None else "https"
        stop = asyncio.Event()
        url = f"{scheme}://127.0.0.1:{port}"
        started.extend([Live(url, f"127.0.0.1:{grpc_port}", state), asyncio.get_running_loop(), stop])
        ready.set()
        await stop.wait()
        server.should_exit = server.force_exit = True
        await task
        await listener.stop(0)
        assert state.model is not None
        state.model.engine.stop(5)
        state.executor.shutdown()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield started[0]
    finally:
        started[1].call_soon_threadsafe(started[2].set)
        thread.join(30)


class Quiet(uvicorn.Server):
    """A server in a thread, where no signal handler can be."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def until(condition: Callable[[], bool]) -> None:
    """For what other threads or processes do, of which there is no event to wait for."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def tensor(name: str, data: Any, datatype: str = "INT64") -> dict[str, Any]:
    return {"name": name, "shape": list(np.array(data).shape), "datatype": datatype, "data": data}


def tensors(ids: list[list[int]], mask: list[list[int]] | None = None) -> list[dict[str, Any]]:
    ones, zeros = np.ones_like(ids).tolist(), np.zeros_like(ids).tolist()
    return [tensor("input_ids", ids), tensor("attention_mask", mask or ones), tensor("token_type_ids", zeros)]
