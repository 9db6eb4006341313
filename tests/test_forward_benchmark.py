"""What bench/speed/forward.py reports, and what the documents say of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from bench.speed.forward import compared
from bench.speed.page import RESULTS, documents, sentence, with_tables
from bench.support.networks import BATCHES, Task, ours, transformers
from tests.support.checkpoints import save_small

ROOT = Path(__file__).parent.parent
MACHINE = "xeon_amx_2026-11"
"""The machine that README's sentence is about."""


def page() -> str:
    return (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_results_files() -> None:
    assert with_tables(page()) == page(), "run `make docs`"
    assert documents(RESULTS)


def test_readme_says_what_the_results_files_say() -> None:
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert sentence(RESULTS, MACHINE) in readme


@pytest.mark.parametrize(
    ("key", "value"),
    [("s_per_image", {"median": 9.0, "least": 8.0, "most": 10.0}), ("best_batch", 3)],
)
def test_another_number_is_another_page(key: str, value: object, tmp_path: Path) -> None:
    for path in RESULTS.glob("forward_*.json"):
        shutil.copy(path, tmp_path)
    name, document = documents(tmp_path)[0]
    document["contestants"]["OpenVINO, float32"][key] = value
    (tmp_path / name).write_text(json.dumps(document))
    assert with_tables(page(), tmp_path) != page()


def test_contestants_are_compared_at_their_best_batch(tmp_path: Path) -> None:
    """Real networks; transformers' classes are ours, and another network's are not."""
    folder = save_small(tmp_path / "small")
    generator = torch.Generator().manual_seed(0)
    images_NCHW = torch.randn(max(BATCHES), 3, 64, 64, generator=generator)
    task = Task(folder, images_NCHW, images_NCHW, ("float32", "bfloat16"), 1, "cpu", tmp_path)
    with torch.inference_mode():
        makers = {**ours(task), **transformers(task)}
        exact = makers["ours, float32"](1)
        makers["another, float32"] = lambda _: lambda x_NCHW: -exact(x_NCHW)
        contestants = compared(makers, images_NCHW, rounds=2, clock="CPU")["contestants"]
    assert contestants.keys() == makers.keys()
    for name, measured in contestants.items():
        found = measured["search_s_per_image"]
        assert found.keys() == set(BATCHES)
        assert found[measured["best_batch"]] == min(found.values()) > 0
        assert measured["s_per_image"]["median"] > 0
        assert measured["times_slower_than_ours"].keys() == {"float32", "bfloat16"}
        alike = measured["share_of_pixels_like_ours_float32"]
        largest = measured["largest_difference_of_logits"]
        if name == "another, float32":
            assert alike < 0.1 < largest
        elif "bfloat16" in name:
            assert 0.9 < alike < 1
            assert 1e-3 < largest < 1
        else:
            assert alike > 0.9999
            assert largest < 1e-4
    own = contestants["ours, float32"]["times_slower_than_ours"]["float32"]
    assert own["at_best_batch"] == {"median": 1.0, "low": 1.0, "high": 1.0}
