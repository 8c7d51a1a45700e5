"""Fails the image's build when torch lacks what the worker needs: tracing, bfloat16, int8, saving and loading."""

# ruff: noqa: INP001, T201 -- a script of the build, read by people
# mypy: disable-error-code="no-untyped-call"

import io

import torch


class Block(torch.nn.Module):
    """A small piece of each kind of work that a Transformer does."""

    def __init__(self) -> None:
        """Random weights: only that it runs, and runs alike, is of interest."""
        super().__init__()
        self.embed = torch.nn.Embedding(100, 64)
        self.attend = torch.nn.MultiheadAttention(64, 4, batch_first=True)
        self.norm = torch.nn.LayerNorm(64)
        self.project = torch.nn.Linear(64, 32)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Token ids to vectors."""
        hidden = self.embed(ids)
        return torch.nn.functional.gelu(self.project(self.norm(hidden + self.attend(hidden, hidden, hidden)[0])))


def main() -> None:
    """Eager, traced and reloaded outputs must agree in every precision."""
    torch.manual_seed(0)
    ids = torch.randint(0, 100, (2, 16))
    block = Block().eval()
    quantized = torch.ao.quantization.quantize_dynamic(Block().eval(), {torch.nn.Linear}, torch.qint8)
    with torch.inference_mode():
        for name, model in {"float32": block, "int8": quantized, "bfloat16": Block().eval().bfloat16()}.items():
            file = io.BytesIO()
            torch.jit.save(torch.jit.freeze(torch.jit.trace(model, ids)), file)
            file.seek(0)
            torch.testing.assert_close(torch.jit.load(file)(ids), model(ids), msg=name)
    print(f"torch {torch.__version__}: float32, bfloat16 and int8 traced; CUDA {torch.cuda.is_available()}")


if __name__ == "__main__":
    main()
