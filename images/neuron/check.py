"""Run in the build of the image: the base image has what the worker is written for, and all of it can be imported."""

import sys
from importlib import import_module

import sentencepiece
import torch
import transformers

from torchscript_operator.export import build, verify
from torchscript_operator.serve import loading

if sys.version_info[:2] != (3, 10):
    sys.exit(f"Python 3.10 is wanted, this is {sys.version}")
if not torch.__version__.startswith("1.13.1"):
    sys.exit(f"torch 1.13.1 is wanted, this is {torch.__version__}")
if transformers.__version__ != "4.26.1":
    sys.exit(f"Transformers 4.26.1 is wanted, this is {transformers.__version__}")
if not hasattr(import_module("torch_neuron"), "trace"):
    sys.exit("torch_neuron has no trace: it is an empty stub")
print("tokenizers: sentencepiece", sentencepiece.__version__)
print("worker:", build.__name__, verify.__name__, loading.__name__)
