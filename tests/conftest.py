"""What every test may use: small checkpoints, small archives, and the rows of an output."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import s3server
import torch

from segformer import SegFormer, mit_config, save_model


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SegFormer of the right shape with few channels, random weights and 4 classes: for what
    does not depend on the network."""
    torch.manual_seed(1)
    model = SegFormer(
        mit_config(
            "b0",
            4,
            depths=(1, 1, 1, 1),
            hidden_sizes=(8, 16, 24, 32),
            num_attention_heads=(1, 2, 3, 4),
            decoder_hidden_size=16,
        )
    )
    return _saved(model, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def b0_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MiT-B0 with 5 classes and random weights."""
    torch.manual_seed(2)
    return _saved(SegFormer(mit_config("b0", 5)), tmp_path_factory.mktemp("b0"))


@pytest.fixture(scope="session")
def s3() -> Iterator[s3server.Server]:
    """A real S3 server; the AWS_* variables of this process lead to it. Has a bucket "tests"."""
    with s3server.running() as server:
        server.make_bucket("tests")
        yield server


@pytest.fixture
def s3_folder(s3: s3server.Server) -> str:
    """The URL of a folder of this test alone."""
    assert s3.url
    return f"s3://tests/{uuid.uuid4().hex[:12]}"


def _saved(model: SegFormer, folder: Path) -> str:
    torch.nn.init.normal_(model.head.classifier.weight, std=0.5)  # logits that differ visibly
    save_model(model, str(folder))
    return str(folder)
