"""The files of deploy/ against the published schemas, strictly, and their command lines against the
commands' own parsers. The schemas of KubeRay and of compose are in ../shared; CI always has them.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import click
import pytest
import yaml
from botocore.validate import ParamValidator
from jsonschema import Draft7Validator
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_cli
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from deploy.spot import _parser as spot_parser
from jobs.cli import swath

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
SCHEMAS = ROOT.parent / "shared/schemas"
POLICIES = sorted(DEPLOY.glob("policies/*.json"))
KINDS = {"bucket": "resource", "trust": "trust"}
"""Of policies, by how the names of their files begin; the others are of an identity."""


def schema(name: str) -> dict[str, Any]:
    path = SCHEMAS / name
    if not path.exists():
        if os.environ.get("CI"):
            raise RuntimeError(f"CI needs {path}")
        pytest.skip(f"the published schema ../shared/schemas/{name} is absent")
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def wrong(document: Any, rules: dict[str, Any]) -> list[str]:
    return [f"{e.json_path}: {e.message}" for e in Draft7Validator(rules).iter_errors(document)]


def strict(rules: Any) -> Any:
    """Kubernetes drops fields that a structural schema does not know, without a word; here they
    are wrong."""
    if isinstance(rules, list):
        return [strict(rule) for rule in rules]
    if not isinstance(rules, dict):
        return rules
    made = {name: strict(rule) for name, rule in rules.items()}
    closed = isinstance(rules.get("properties"), dict) and rules.get("type") == "object"
    if closed and not rules.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def ray_job() -> dict[str, Any]:
    (job,) = (one for one in documents("rayjob.yaml") if one["kind"] == "RayJob")
    return job


def rules_of_ray_job() -> dict[str, Any]:
    versions = schema("ray.io_rayjobs.yaml")["spec"]["versions"]
    (rules,) = (v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1")
    rules = strict(rules)
    rules["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, not in a CRD
    return dict(rules)


def test_the_ray_job_fits_its_definition() -> None:
    assert wrong(ray_job(), rules_of_ray_job()) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "backOffLimit"], 3),
        (["spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "tolerance"], []),
        (["spec", "rayClusterSpec", "rayVersion"], 2.6),
        (["spec", "rayClusterSpec", "autoscalerOptions", "idleTimeoutSeconds"], "5 min"),
    ],
    ids=str,
)
def test_a_wrong_field_of_the_ray_job_is_seen(path: list[str], value: object) -> None:
    job = ray_job()
    inner = job
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    assert len(wrong(job, rules_of_ray_job())) == 1


def test_the_ray_job_keeps_what_the_operator_demands_beyond_its_schema() -> None:
    """KubeRay's validation.go."""
    job = ray_job()
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert cluster["rayVersion"] == pinned[1]
    assert len(job["metadata"]["name"]) <= 47
    assert spec["submissionMode"] == "HTTPMode"
    assert "submitterPodTemplate" not in spec
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert not any("restartPolicy" in group["template"]["spec"] for group in groups)
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_pods_have_no_rights_and_no_keys() -> None:
    cluster = ray_job()["spec"]["rayClusterSpec"]
    accounts = [one for one in documents("rayjob.yaml") if one["kind"] == "ServiceAccount"]
    known = {"apiVersion", "kind", "metadata", "automountServiceAccountToken"}
    assert all(set(account) <= known for account in accounts)
    names = {account["metadata"]["name"] for account in accounts}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] in names
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert "env" not in container
            limits = container["resources"]["limits"]
            assert limits == container["resources"]["requests"]  # nobody takes a node's memory


def test_a_worker_drains_within_its_grace() -> None:
    for group in ray_job()["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        drained = spot_parser().parse_args(command[3:])
        assert drained.verb == "drain"
        assert drained.seconds < pod["terminationGracePeriodSeconds"] <= 120


def test_the_compose_file_fits_its_specification() -> None:
    (compose,) = documents("compose.yaml")
    rules = schema("compose-spec.json")
    assert wrong(compose, rules) == []
    compose["services"]["head"]["port"] = []
    assert len(wrong(compose, rules)) == 1


def test_compose_publishes_on_loopback_only_and_what_it_mounts_is_there() -> None:
    (compose,) = documents("compose.yaml")
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            made_by_demo = source.endswith("/work/archive")
            assert made_by_demo or (DEPLOY / source).exists()
        build = service["build"]
        context = DEPLOY / build["context"]
        assert (context / build.get("dockerfile", "Dockerfile")).exists()


def test_the_cluster_file_fits_rays_schema_and_its_own_checks() -> None:
    (cluster,) = documents("aws.yaml")
    validate_config(prepare_config(cluster))
    path = Path(ray_cli.callback.__code__.co_filename).parents[1] / "autoscaler/ray-schema.json"
    rules = json.loads(path.read_text())
    assert wrong(cluster, rules) == []
    cluster["available_node_types"]["gpu"]["max_worker"] = 1
    assert len(wrong(cluster, rules)) == 1


def test_the_machines_are_what_ec2_understands() -> None:
    """Ray hands a node_config to RunInstances as it is."""
    (cluster,) = documents("aws.yaml")
    model = botocore.session.get_session().get_service_model("ec2")
    shape = model.operation_model("RunInstances").input_shape
    for kind, node in cluster["available_node_types"].items():
        asked = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(asked, shape)
        assert not report.has_errors(), f"{kind}: {report.generate_report()}"
        assert asked["MetadataOptions"]["HttpTokens"] == "required"
        spot = asked.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        assert spot == (kind != cluster["head_node_type"])


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_policies_fit_the_schema_of_policies(path: Path) -> None:
    """The one that cfn-lint ships; and nothing is allowed that ends in a star."""
    import cfnlint  # noqa: PLC0415  takes a second

    folder = Path(cfnlint.__file__).parent / "data/schemas/other/iam"
    kind = KINDS.get(path.stem.partition("-")[0], "identity")
    policy = json.loads(path.read_text())
    common = Resource.from_contents(json.loads((folder / "policy.json").read_text()), DRAFT7)
    rules = json.loads((folder / f"policy_{kind}.json").read_text())
    registry = Registry().with_resource("policy", common)
    assert [e.message for e in Draft7Validator(rules, registry=registry).iter_errors(policy)] == []
    for statement in policy["Statement"]:
        actions = statement["Action"]
        assert not any(
            "*" in action for action in ([actions] if str(actions) == actions else actions)
        )


def test_a_role_may_do_what_the_buckets_allow_it() -> None:
    """Ceph's gateway looks for the right to delete many objects at once at the bucket itself, where
    AWS has no use for it: the bucket's policy names it, too."""

    def statements(name: str) -> list[dict[str, Any]]:
        found = json.loads((DEPLOY / "policies" / name).read_text())["Statement"]
        for one in found:
            one.pop("Principal", None)
            if one["Sid"] == "WriteOutput":
                one["Resource"] = [name for name in one["Resource"] if name.endswith("/*")]
        return list(found)

    buckets = [*statements("bucket-inputs.json"), *statements("bucket-output.json")]
    assert statements("role.json") == buckets


def test_the_accounts_that_a_role_trusts_are_those_of_the_job() -> None:
    trust = json.loads((DEPLOY / "policies/trust-irsa.json").read_text())
    (trusted,) = (
        value
        for name, value in trust["Statement"][0]["Condition"]["StringEquals"].items()
        if name.endswith(":sub")
    )
    accounts = [one for one in documents("rayjob.yaml") if one["kind"] == "ServiceAccount"]
    names = [account["metadata"]["name"] for account in accounts]
    assert trusted == [f"system:serviceaccount:default:{name}" for name in names]


def dockerfile(path: Path) -> list[tuple[str, str]]:
    """Instructions and what they are given."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(words[0], words[1]) for line in text.splitlines() if (words := line.split(None, 1))]


def test_the_image_runs_as_nobody_and_its_bases_are_named_exactly() -> None:
    for path in (DEPLOY / "Dockerfile", DEPLOY / "store/Dockerfile"):
        steps = dockerfile(path)
        bases = [given.split()[0] for step, given in steps if step == "FROM"]
        assert all(re.search(r":\S*[a-z]", base) for base in bases)
        user = [given for step, given in steps if step == "USER"][-1]
        assert user in ("1000:1000", "ceph")


def test_the_image_has_no_compiler_and_copies_only_what_is_let_in() -> None:
    steps = dockerfile(DEPLOY / "Dockerfile")
    last = max(index for index, (step, _) in enumerate(steps) if step == "FROM")
    assert "gcc" not in " ".join(given for _, given in steps[last:])
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    let_in = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for step, given in steps:
        words = given.split()
        if step == "COPY" and not given.startswith("--from"):
            for source in words[:-1]:
                assert any(fnmatch.fnmatch(source, one) for one in let_in)
                assert list(ROOT.glob(source))


def texts() -> Iterator[tuple[str, str]]:
    """Every shell text of the files, by where it stands."""
    cluster = ray_job()["spec"]["rayClusterSpec"]
    yield "rayjob.yaml: entrypoint", ray_job()["spec"]["entrypoint"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        flags = shlex.join(f"--{k}={v}" for k, v in group["rayStartParams"].items())
        head = "--head" if group is cluster["headGroupSpec"] else "--address=head:6379"
        yield "rayjob.yaml: rayStartParams", f"ray start {head} {flags} --block"
        for container in group["template"]["spec"]["containers"]:
            hook = container.get("lifecycle", {}).get("preStop")
            if hook:
                yield "rayjob.yaml: preStop", shlex.join(hook["exec"]["command"])
    (aws,) = documents("aws.yaml")
    for name, commands in aws.items():
        if name.endswith("_commands"):
            yield from ((f"aws.yaml: {name}", command) for command in commands)
    (compose,) = documents("compose.yaml")
    for name, service in compose["services"].items():
        for command in (
            service.get("command"),
            *(h["command"] for h in service.get("pre_stop", ())),
        ):
            if command:
                text = command if isinstance(command, str) else shlex.join(command)
                yield f"compose.yaml: {name}", text
    page = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    for line in re.findall(r"^    (.+)$", page, re.MULTILINE):
        yield "README.md", line
    for comment in re.findall(r"`(ray [^`]+)`", (DEPLOY / "aws.yaml").read_text()):
        yield "aws.yaml: comment", comment


def commands() -> list[tuple[str, str]]:
    """Each simple command that is Swath's or Ray's, as a line."""
    found = []
    for where, text in texts():
        lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()<>")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for token in [*lexer, ";"]:
            if not set(token) <= set(";&|()"):
                words.append(token)
                continue
            starts = [i for i, w in enumerate(words) if w in ("swath", "ray") or w == "deploy.spot"]
            if starts and (
                starts[0] == 0 or words[starts[0]] == "deploy.spot" or words[0] == "docker"
            ):
                found.append((where, shlex.join(words[starts[0] :])))
            words = []
    return found


COMMANDS = commands()


@pytest.mark.parametrize(("where", "line"), COMMANDS, ids=lambda text: text[:60])
def test_every_command_line_is_understood(where: str, line: str) -> None:
    """A renamed option or verb fails here."""
    words = shlex.split(line)
    if "<" in words or ">" in words:
        words = words[: min(words.index(sign) for sign in ("<", ">") if sign in words)]
        words = words[:-1] if words[-1].isdecimal() else words
    program, arguments = words[0], words[1:]
    assert where
    if program == "deploy.spot":
        spot_parser().parse_args(arguments)
        return
    group: click.Group = swath if program == "swath" else ray_cli
    context = click.Context(group, info_name=program)
    while True:
        _, command, arguments = group.resolve_command(context, arguments)
        assert command is not None
        if not isinstance(command, click.Group):
            break
        group, context = command, click.Context(command, parent=context)
    if arguments != ["--help"]:
        command.make_context(command.name, list(arguments), parent=context)


def test_the_command_lines_are_found() -> None:
    """So that the test above is not empty of what matters."""
    lines = [line for _, line in COMMANDS]
    for start in (
        "swath run s3://",
        "swath submit s3://",
        "ray start --head",
        "deploy.spot watch aws",
    ):
        assert any(line.startswith(start) for line in lines)
    assert any("--address=" in line for line in lines if line.startswith("ray start"))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="compiles")
def test_triton_finds_its_c_file_compiled(tmp_path: Path) -> None:
    """Once on a machine with a compiler, then on one without; the driver is stood in for."""
    variables = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "kept")}
    made = [sys.executable, "-m", "deploy.warm_triton"]
    subprocess.run(made, check=True, env=variables, cwd=ROOT)
    (kept,) = (tmp_path / "kept").rglob("cuda_utils*.so")
    before = kept.stat().st_mtime_ns
    subprocess.run(made, check=True, env={**variables, "CC": "/no/compiler"}, cwd=ROOT)
    assert kept.stat().st_mtime_ns == before
    nothing = {**variables, "CC": "/no/compiler", "TRITON_CACHE_DIR": str(tmp_path / "none")}
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(made, check=True, env=nothing, cwd=ROOT, stderr=subprocess.DEVNULL)
