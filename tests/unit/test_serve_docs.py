"""What the documentation says of the server's metrics and routes."""

import re
from pathlib import Path

from torchscript_operator.serve.http import ROUTES
from torchscript_operator.serve.metrics import Metrics

TEXT = (Path(__file__).resolve().parents[2] / "docs/serving.md").read_text()


def test_every_metric_is_documented_under_its_own_name() -> None:
    exposed = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in Metrics().registry.collect()
        if family.name.startswith("tsm_")
    }
    assert set(re.findall(r"`(tsm_\w+)`", TEXT)) == exposed


def test_every_path_is_documented() -> None:
    for _, path, *_ in ROUTES:
        first = path.partition("{")[0].rstrip("/")
        assert first in TEXT
