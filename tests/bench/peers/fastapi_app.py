"""FastAPI: one model in each worker process, a plain function for a path, answers by orjson."""

import os

import orjson
from fastapi import FastAPI, Response
from minilm import Encoder
from pydantic import BaseModel

app = FastAPI()
encoder = Encoder(os.environ["MINILM_KIND"])


class Text(BaseModel):
    text: str


@app.post("/embed")
def embed(given: Text) -> Response:
    answer = {"embedding": encoder([given.text])[0]}
    return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
