"""The methods of the Open Inference Protocol over gRPC: the same checks, queue and answers as over REST."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from google.protobuf.message import Message

from torchscript_operator import __version__
from torchscript_operator.serve.engine import EngineError
from torchscript_operator.serve.errors import of_engine
from torchscript_operator.serve.exchange import INLINE_VALUES, check, model_of
from torchscript_operator.serve.metadata import EXTENSIONS, check_name, metadata
from torchscript_operator.serve.openinference import open_inference_pb2 as messages
from torchscript_operator.serve.rpc_messages import fill, inputs_of, options_of
from torchscript_operator.serve.state import State
from torchscript_operator.serve.tensors import Asked, has_sequence, mask_output, to_outputs, to_rows, wanted


@dataclass(frozen=True)
class Call:
    """What a method may know of its call beside the message."""

    ends: float
    """Monotonic time at which the client or the server gives up."""

    @property
    def left(self) -> float:
        """Seconds left."""
        return max(0.0, self.ends - time.monotonic())


Method = Callable[[Any, Call], Awaitable[Message]]
"""Message to message. Raises ApiError."""


class Service:
    """The methods, each around one message."""

    def __init__(self, state: State) -> None:
        """Take what every route takes."""
        self._state = state

    @property
    def methods(self) -> dict[str, tuple[type[Message], Method]]:
        """Method name to the type of its request and what answers it."""
        return {
            "ServerLive": (messages.ServerLiveRequest, self.server_live),
            "ServerReady": (messages.ServerReadyRequest, self.server_ready),
            "ModelReady": (messages.ModelReadyRequest, self.model_ready),
            "ServerMetadata": (messages.ServerMetadataRequest, self.server_metadata),
            "ModelMetadata": (messages.ModelMetadataRequest, self.model_metadata),
            "ModelInfer": (messages.ModelInferRequest, self.model_infer),
        }

    async def server_live(self, _request: messages.ServerLiveRequest, _call: Call) -> messages.ServerLiveResponse:
        """Whether requests can be computed at all."""
        model = self._state.model
        return messages.ServerLiveResponse(live=model is None or model.engine.complaint() is None)

    async def server_ready(self, _request: messages.ServerReadyRequest, _call: Call) -> messages.ServerReadyResponse:
        """Whether requests may come."""
        return messages.ServerReadyResponse(ready=self._state.ready)

    async def model_ready(self, request: messages.ModelReadyRequest, _call: Call) -> messages.ModelReadyResponse:
        """The same of the model."""
        check_name(self._state, request.name, request.version)
        return messages.ModelReadyResponse(ready=self._state.ready)

    async def server_metadata(
        self, _request: messages.ServerMetadataRequest, _call: Call
    ) -> messages.ServerMetadataResponse:
        """The server's name and version."""
        return messages.ServerMetadataResponse(name="torchscript-operator", version=__version__, extensions=EXTENSIONS)

    async def model_metadata(
        self, request: messages.ModelMetadataRequest, _call: Call
    ) -> messages.ModelMetadataResponse:
        """The model's tensors; the protocol's message has no place for the rest of REST's metadata."""
        check_name(self._state, request.name, request.version)
        found = metadata(self._state, model_of(self._state))
        del found["parameters"]
        return messages.ModelMetadataResponse(**found)

    async def model_infer(self, request: messages.ModelInferRequest, call: Call) -> messages.ModelInferResponse:
        """Outputs for inputs; raw when the inputs were."""
        state = self._state
        check_name(state, request.model_name, request.model_version)
        model = model_of(state)
        options = options_of(request)
        asked = Asked(inputs_of(request), [output.name for output in request.outputs], truncate=options.truncate)
        specs = wanted(model, asked)
        rows = await to_rows(state, model, asked)
        check(state, model, rows, "inputs")
        try:
            results = await model.engine.compute(rows, min(call.left, options.seconds))
        except EngineError as error:
            raise of_engine(error) from None
        outputs = to_outputs(specs, rows, results)
        if asked.by_text and any(map(has_sequence, specs)):
            outputs.append(mask_output(rows))
        answer = messages.ModelInferResponse(model_name=state.name, model_version=state.version, id=request.id)
        as_bytes = bool(request.raw_input_contents) or options.raw
        if sum(output.array.size for output in outputs) <= INLINE_VALUES:
            fill(answer, outputs, as_bytes=as_bytes)
        else:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(state.executor, partial(fill, answer, outputs, as_bytes=as_bytes))
        return answer
