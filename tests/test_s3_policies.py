"""deploy/policies/ on a real S3 server: a run with exactly these rights, and with one less."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import s3_server
from tests.support.archives import write_scene

POLICIES = Path(__file__).resolve().parents[1] / "deploy/policies"
OPTIONS = ["--window", "128", "--stride", "64", "--batch", "2", "--runner", "local"]
INPUTS, OUTPUT = "my-archive", "my-tables"
Statements = list[dict[str, Any]]


def statements(bucket: str, user: str) -> Statements:
    """The statements of the policy file for a bucket, with this user as the principal."""
    name = {INPUTS: "bucket-inputs.json", OUTPUT: "bucket-output.json"}[bucket]
    policy = json.loads((POLICIES / name).read_text())
    principal = {"Principal": {"AWS": [f"arn:aws:iam:::user/{user}"]}}
    return [{**statement, **principal} for statement in policy["Statement"]]


def without(policy: Statements, action: str) -> Statements:
    reduced = [{**s, "Action": [a for a in s["Action"] if a != action]} for s in policy]
    assert reduced != policy
    return [statement for statement in reduced if statement["Action"]]


def allow(s3: s3_server.Server, bucket: str, policy: Statements) -> None:
    s3.set_policy(bucket, json.dumps({"Version": "2012-10-17", "Statement": policy}))


@pytest.fixture(scope="module")
def role(s3: s3_server.Server, small_checkpoint: str) -> s3_server.Credentials:
    """A user whose only rights are those of a policy. The two buckets that the policy files name
    exist, the first of them with a checkpoint."""
    if not isinstance(s3, s3_server.Gateway):
        pytest.skip("moto knows one user")
    credentials = s3_server.Credentials("ROLEOFTHEJOB00000001", "role-own-secret-" + "2" * 24)
    s3.add_user("role", credentials)
    for bucket in (INPUTS, OUTPUT):
        s3.make_bucket(bucket)
    s3_server.client().put(f"{small_checkpoint}/", f"{INPUTS}/checkpoint/", recursive=True)
    return credentials


@pytest.fixture
def archive(role: s3_server.Credentials, tmp_path: Path) -> None:
    assert role.key
    scene = write_scene(tmp_path / "in" / "scene.tif", 600, 300)
    client = s3_server.client()
    client.put(str(scene), f"{INPUTS}/scenes/scene.tif")
    if client.exists(f"{OUTPUT}/landcover"):
        client.rm(f"{OUTPUT}/landcover", recursive=True)


def run(s3: s3_server.Server, role: s3_server.Credentials) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.cli", "run", f"s3://{INPUTS}/scenes", *OPTIONS]
    command += ["--checkpoint", f"s3://{INPUTS}/checkpoint", "--output", f"s3://{OUTPUT}/landcover"]
    variables = {**os.environ, **s3.environment(), **role.environment()}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=variables, timeout=120
    )


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.usefixtures("archive")
def test_the_rights_of_the_policies_are_enough_for_a_run(
    s3: s3_server.Server, role: s3_server.Credentials
) -> None:
    for bucket in (INPUTS, OUTPUT):
        allow(s3, bucket, statements(bucket, "role"))
    done = run(s3, role)
    assert done.returncode == 0, done.stderr
    assert "may not do that" not in done.stderr
    resumed = run(s3, role)  # finds everything done
    assert resumed.returncode == 0, resumed.stderr
    assert s3_server.client().find(f"{OUTPUT}/landcover/masks")


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.usefixtures("archive")
def test_without_the_right_to_list_uploads_old_ones_stay_with_a_warning(
    s3: s3_server.Server, role: s3_server.Credentials
) -> None:
    allow(s3, INPUTS, statements(INPUTS, "role"))
    allow(s3, OUTPUT, without(statements(OUTPUT, "role"), "s3:ListBucketMultipartUploads"))
    done = run(s3, role)
    assert done.returncode == 0, done.stderr
    assert "unfinished uploads of killed writers are left behind" in done.stderr


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize(
    ("bucket", "action", "url"),
    [
        (INPUTS, "s3:GetObject", f"s3://{INPUTS}/checkpoint"),
        (INPUTS, "s3:ListBucket", f"s3://{INPUTS}/scenes"),
        (OUTPUT, "s3:ListBucket", f"s3://{OUTPUT}/landcover"),
        (OUTPUT, "s3:PutObject", f"s3://{OUTPUT}/landcover"),
        (OUTPUT, "s3:DeleteObject", f"s3://{OUTPUT}/landcover"),
    ],
)
def test_a_run_without_one_of_the_rights_is_denied(
    s3: s3_server.Server, role: s3_server.Credentials, bucket: str, action: str, url: str
) -> None:
    for name in (INPUTS, OUTPUT):
        policy = statements(name, "role")
        allow(s3, name, without(policy, action) if name == bucket else policy)
    assert_denied(run(s3, role), url)


@pytest.mark.s3
@pytest.mark.slow
def test_a_whole_checkpoint_is_read_without_the_right_to_list(
    s3: s3_server.Server, role: s3_server.Credentials
) -> None:
    """A store that lists nothing answers 403, not 404, for files that an adapter would have."""
    allow(s3, INPUTS, without(statements(INPUTS, "role"), "s3:ListBucket"))
    command = [sys.executable, "-m", "jobs.cli", "model", "inspect", f"s3://{INPUTS}/checkpoint"]
    variables = {**os.environ, **s3.environment(), **role.environment()}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=variables, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.usefixtures("archive")
def test_resuming_the_output_of_another_user_needs_the_right_to_read_it(
    s3: s3_server.Server, role: s3_server.Credentials
) -> None:
    """On Ceph's gateway, whoever wrote an object may read it; on AWS this takes the right."""
    for bucket in (INPUTS, OUTPUT):
        allow(s3, bucket, statements(bucket, "role"))
    first = run(s3, s3.credentials)
    assert first.returncode == 0, first.stderr
    allow(s3, OUTPUT, without(statements(OUTPUT, "role"), "s3:GetObject"))
    assert_denied(run(s3, role), f"s3://{OUTPUT}/landcover")
    allow(s3, OUTPUT, statements(OUTPUT, "role"))
    resumed = run(s3, role)
    assert resumed.returncode == 0, resumed.stderr


def assert_denied(done: subprocess.CompletedProcess[str], url: str) -> None:
    assert done.returncode in (1, 2), done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"swath: error: {url}"), done.stderr
    assert "AccessDenied" in last or "Forbidden" in last or "403" in last, last
    assert "Traceback" not in done.stderr
