"""Makes the gRPC messages of the Open Inference Protocol from their .proto file: `--check` only compares."""

import importlib.resources
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("torchscript_operator/serve/openinference")
PROTO = PACKAGE / "open_inference.proto"
GENERATED = (PACKAGE / "open_inference_pb2.py", PACKAGE / "open_inference_pb2.pyi")


def contents() -> dict[Path, str]:
    """Each generated file's path below this folder, and what it should hold."""
    from grpc_tools import protoc  # noqa: PLC0415 - of no use at run time

    with tempfile.TemporaryDirectory() as folder:
        well_known = importlib.resources.files("grpc_tools") / "_proto"
        arguments = ["protoc", f"-I{ROOT}", f"-I{well_known}", f"--python_out={folder}", f"--pyi_out={folder}"]
        if protoc.main([*arguments, str(ROOT / PROTO)]) != 0:
            msg = f"{PROTO} cannot be compiled"
            raise RuntimeError(msg)
        return {path: (Path(folder) / path).read_text() for path in GENERATED}


def stale() -> list[Path]:
    """Generated files that do not hold what they should."""
    return [
        path for path, text in contents().items() if not (ROOT / path).is_file() or (ROOT / path).read_text() != text
    ]


def main() -> int:
    """Write the files, or with --check only compare them."""
    if "--check" in sys.argv[1:]:
        found = stale()
        for path in found:
            sys.stderr.write(f"operator/{path} is out of date: run `make generate`\n")
        return 1 if found else 0
    for path, text in contents().items():
        (ROOT / path).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
