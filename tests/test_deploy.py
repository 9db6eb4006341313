"""The files of deploy/ fit the published schemas, strictly, and their command lines the commands'
own parsers. The schemas of KubeRay and of compose are in ../shared; CI always has them.
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
"""The kind of a policy by the first word of its file name; any other is an identity policy."""


def schema(name: str) -> dict[str, Any]:
    """A published schema; the test is skipped if it is absent, except in CI."""
    path = SCHEMAS / name
    if not path.exists():
        if os.environ.get("CI"):
            raise RuntimeError(f"CI needs {path}")
        pytest.skip(f"the published schema ../shared/schemas/{name} is absent")
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def violations(document: Any, rules: dict[str, Any]) -> list[str]:
    """The violations of a schema by a document, one line each."""
    return [f"{e.json_path}: {e.message}" for e in Draft7Validator(rules).iter_errors(document)]


def strict(rules: Any) -> Any:
    """The schema with unknown fields forbidden, which Kubernetes would drop silently."""
    if isinstance(rules, list):
        return [strict(rule) for rule in rules]
    if not isinstance(rules, dict):
        return rules
    copy = {name: strict(rule) for name, rule in rules.items()}
    closed = isinstance(rules.get("properties"), dict) and rules.get("type") == "object"
    if closed and not rules.get("x-kubernetes-preserve-unknown-fields"):
        copy.setdefault("additionalProperties", False)
    return copy


def ray_job() -> dict[str, Any]:
    (job,) = (part for part in documents("rayjob.yaml") if part["kind"] == "RayJob")
    return job


def rules_of_ray_job() -> dict[str, Any]:
    versions = schema("ray.io_rayjobs.yaml")["spec"]["versions"]
    (rules,) = (v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1")
    rules = strict(rules)
    rules["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own, not in a CRD
    return dict(rules)


def test_the_ray_job_fits_its_definition() -> None:
    assert violations(ray_job(), rules_of_ray_job()) == []


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
def test_a_wrong_field_of_the_ray_job_is_a_violation(path: list[str], value: object) -> None:
    job = ray_job()
    inner = job
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    assert len(violations(job, rules_of_ray_job())) == 1


def test_the_ray_job_meets_the_demands_of_the_operator_beyond_its_schema() -> None:
    """The demands are those of KubeRay's validation.go."""
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
    accounts = [part for part in documents("rayjob.yaml") if part["kind"] == "ServiceAccount"]
    fields = {"apiVersion", "kind", "metadata", "automountServiceAccountToken"}
    assert all(set(account) <= fields for account in accounts)
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
            assert (
                limits == container["resources"]["requests"]
            )  # no pod takes the memory of its neighbors


def test_a_worker_drains_within_its_grace_period() -> None:
    for group in ray_job()["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        options = spot_parser().parse_args(command[3:])
        assert options.verb == "drain"
        assert options.seconds < pod["terminationGracePeriodSeconds"] <= 120


def test_the_compose_file_fits_its_specification() -> None:
    (compose,) = documents("compose.yaml")
    rules = schema("compose-spec.json")
    assert violations(compose, rules) == []
    compose["services"]["head"]["port"] = []
    assert len(violations(compose, rules)) == 1


def test_compose_publishes_on_loopback_only_and_its_mounts_exist() -> None:
    (compose,) = documents("compose.yaml")
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            written_by_demo = source.endswith("/work/archive")
            assert written_by_demo or (DEPLOY / source).exists()
        build = service["build"]
        context = DEPLOY / build["context"]
        assert (context / build.get("dockerfile", "Dockerfile")).exists()


def test_the_cluster_file_fits_rays_schema_and_its_own_checks() -> None:
    (cluster,) = documents("aws.yaml")
    validate_config(prepare_config(cluster))
    path = Path(ray_cli.callback.__code__.co_filename).parents[1] / "autoscaler/ray-schema.json"
    rules = json.loads(path.read_text())
    assert violations(cluster, rules) == []
    cluster["available_node_types"]["gpu"]["max_worker"] = 1
    assert len(violations(cluster, rules)) == 1


def test_ec2_accepts_the_machines_of_the_cluster_file() -> None:
    """Ray passes a node_config to RunInstances unchanged."""
    (cluster,) = documents("aws.yaml")
    model = botocore.session.get_session().get_service_model("ec2")
    shape = model.operation_model("RunInstances").input_shape
    for kind, node in cluster["available_node_types"].items():
        request = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), f"{kind}: {report.generate_report()}"
        assert request["MetadataOptions"]["HttpTokens"] == "required"
        spot = request.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        assert spot == (kind != cluster["head_node_type"])


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.name)
def test_policies_fit_cfn_lints_schema_and_allow_no_wildcard(path: Path) -> None:
    """The schema ships with cfn-lint. No action contains a star."""
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


def test_the_role_allows_exactly_what_the_buckets_allow_it() -> None:
    """Ceph's gateway looks for the right to delete many objects at once at the bucket itself, where
    AWS does not need it: the bucket's policy names it as well."""

    def statements(name: str) -> list[dict[str, Any]]:
        policy = json.loads((DEPLOY / "policies" / name).read_text())["Statement"]
        for statement in policy:
            statement.pop("Principal", None)
            if statement["Sid"] == "WriteOutput":
                objects = [name for name in statement["Resource"] if name.endswith("/*")]
                statement["Resource"] = objects
        return list(policy)

    buckets = [*statements("bucket-inputs.json"), *statements("bucket-output.json")]
    assert statements("role.json") == buckets


def test_the_accounts_that_a_role_trusts_are_those_of_the_job() -> None:
    trust = json.loads((DEPLOY / "policies/trust-irsa.json").read_text())
    (trusted,) = (
        value
        for name, value in trust["Statement"][0]["Condition"]["StringEquals"].items()
        if name.endswith(":sub")
    )
    accounts = [part for part in documents("rayjob.yaml") if part["kind"] == "ServiceAccount"]
    names = [account["metadata"]["name"] for account in accounts]
    assert trusted == [f"system:serviceaccount:default:{name}" for name in names]


def dockerfile(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and their arguments."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(words[0], words[1]) for line in text.splitlines() if (words := line.split(None, 1))]


def test_the_images_run_as_an_ordinary_user_and_pin_their_bases() -> None:
    for path in (DEPLOY / "Dockerfile", DEPLOY / "store/Dockerfile"):
        steps = dockerfile(path)
        bases = [arguments.split()[0] for step, arguments in steps if step == "FROM"]
        assert all(re.search(r":\S*[a-z]", base) for base in bases)
        user = [arguments for step, arguments in steps if step == "USER"][-1]
        assert user in ("1000:1000", "ceph")


def test_the_image_has_no_compiler_and_copies_only_what_its_dockerignore_includes() -> None:
    steps = dockerfile(DEPLOY / "Dockerfile")
    last = max(index for index, (step, _) in enumerate(steps) if step == "FROM")
    assert "gcc" not in " ".join(arguments for _, arguments in steps[last:])
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    included = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for step, arguments in steps:
        words = arguments.split()
        if step == "COPY" and not arguments.startswith("--from"):
            for source in words[:-1]:
                assert any(fnmatch.fnmatch(source, pattern) for pattern in included)
                assert list(ROOT.glob(source))


def shell_texts() -> Iterator[tuple[str, str]]:
    """Place and text of every piece of shell in the files."""
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
    """Place and line of each simple command of Swath or Ray."""
    lines = []
    for place, text in shell_texts():
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
                lines.append((place, shlex.join(words[starts[0] :])))
            words = []
    return lines


COMMANDS = commands()


@pytest.mark.parametrize(("place", "line"), COMMANDS, ids=lambda text: text[:60])
def test_every_command_line_is_understood(place: str, line: str) -> None:
    """A renamed option or verb makes this fail."""
    words = shlex.split(line)
    if "<" in words or ">" in words:
        words = words[: min(words.index(sign) for sign in ("<", ">") if sign in words)]
        words = words[:-1] if words[-1].isdecimal() else words
    program, arguments = words[0], words[1:]
    assert place
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


def test_the_command_lines_that_matter_are_found() -> None:
    """The test above would pass without any command."""
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
    """First on a machine with a compiler, then on one without; the CUDA driver is faked."""
    variables = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "kept")}
    command = [sys.executable, "-m", "deploy.warm_triton"]
    subprocess.run(command, check=True, env=variables, cwd=ROOT)
    (library,) = (tmp_path / "kept").rglob("cuda_utils*.so")
    before = library.stat().st_mtime_ns
    subprocess.run(command, check=True, env={**variables, "CC": "/no/compiler"}, cwd=ROOT)
    assert library.stat().st_mtime_ns == before
    without = {**variables, "CC": "/no/compiler", "TRITON_CACHE_DIR": str(tmp_path / "none")}
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(command, check=True, env=without, cwd=ROOT, stderr=subprocess.DEVNULL)
