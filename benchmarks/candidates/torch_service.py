"""The simple rerank service: PyTorch and transformers behind FastAPI and uvicorn.

A request is one batch, padded to its longest pair. It is computed in the event loop, one request at
a time: concurrent requests in threads would compete for the cores.
"""

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.candidates.torch_model import TorchModel
from benchmarks.protocol import Setting


class Request(BaseModel):
    """One query and its passages."""

    query: str
    passages: list[str]


def serve(setting: Setting) -> None:
    """Serve until stopped."""
    model = TorchModel(setting)
    app = FastAPI()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/rerank")
    async def rerank(request: Request) -> dict[str, list[float]]:
        return {"scores": model.score(request.query, request.passages)}

    uvicorn.run(app, host="127.0.0.1", port=setting.port, log_level="warning")
