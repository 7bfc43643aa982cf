"""The files that describe clusters, held against Ray's own schema, KubeRay's fields, the lock file and each other."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from study.cluster.nodes import VARIABLE, parse_nodes
from study.command_line.options import build_parser
from study.plan.resources import Node

ROOT = Path(__file__).parents[2]
LAUNCHER_FILES = ("cluster.yaml", "deploy/on-premises.yaml")
RAYJOB_SCHEMA = Path(__file__).parents[1] / "data" / "rayjob_v1_reduced.json"


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_launcher_files_are_valid_for_ray(name: str) -> None:
    raw = load(name)
    validate_config(raw)
    validate_config(prepare_config(copy.deepcopy(raw)))


@pytest.mark.parametrize(
    "damage", [{"idle_timeout": 5}, {"max_workers": -1}, {"auth": {"ssh_usr": "ubuntu"}}, {"head_node_type": "absent"}]
)
def test_the_schema_refuses_what_is_wrong(damage: dict[str, Any]) -> None:
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config({**load("cluster.yaml"), **damage})


def test_the_aws_cluster_scales_from_no_gpu_worker_to_its_limit() -> None:
    content = prepare_config(load("cluster.yaml"))
    head, worker = (content["available_node_types"][name] for name in ("head", "gpu_worker"))
    assert (worker["min_workers"], worker["max_workers"]) == (0, content["max_workers"])
    assert head["resources"] == {"CPU": 0}
    assert content["idle_timeout_minutes"] > 0


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_every_node_installs_the_same_and_asks_for_the_token(name: str) -> None:
    content = load(name)
    assert "bash ~/study/deploy/install.sh" in content["setup_commands"]
    assert content["file_mounts"] == {"~/study": ".", "~/.ray/auth_token": "~/.ray/auth_token"}
    for commands in (content["head_start_ray_commands"], content["worker_start_ray_commands"]):
        starts = [command for command in commands if "ray start" in command]
        assert len(starts) == 1
        assert "ray stop" in commands
    settings = [command for command in content["setup_commands"] if ".bashrc" in command]
    assert len(settings) == 1
    assert "RAY_AUTH_MODE=token STUDY_RESULTS=/mnt/studies" in settings[0]
    assert "--dashboard-host" not in str(content), "the dashboard stays on the head's loopback"


def test_the_launcher_files_share_their_commands() -> None:
    aws, local = (load(name) for name in LAUNCHER_FILES)
    for key in ("head_start_ray_commands", "worker_start_ray_commands", "file_mounts", "rsync_exclude"):
        assert aws[key] == local[key]


def test_the_installation_uses_hashes_alone_and_one_python() -> None:
    script = (ROOT / "deploy" / "install.sh").read_text()
    for command in re.findall(r"pip (?:install|sync)[^\n]*", script):
        assert "--require-hashes" in command
    assert re.search(r"^python=3\.11\.\d+$", script, re.MULTILINE)
    assert all("--hash=sha256:" in (ROOT / name).read_text() for name in ("requirements.lock", "requirements-uv.lock"))


def test_the_installation_does_nothing_where_it_is_done(tmp_path: Path) -> None:
    script = str(ROOT / "deploy" / "install.sh")
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    fingerprint = subprocess.run(
        ["bash", script, "--fingerprint"], env=environment, capture_output=True, text=True, check=True
    )
    (tmp_path / "study-venv" / "bin").mkdir(parents=True)
    (tmp_path / "study-venv" / "bin" / "ray").touch(mode=0o755)
    (tmp_path / "study-venv.ready").write_text(fingerprint.stdout)
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == f"ready: {fingerprint.stdout}"


def rayjob_errors(content: Any) -> list[str]:
    schema = json.loads(RAYJOB_SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(content)]


def test_the_rayjob_has_the_fields_of_kuberay() -> None:
    assert rayjob_errors(load("deploy/rayjob.yaml")) == []


def test_a_rayjob_with_a_wrong_field_is_refused() -> None:
    wrong = load("deploy/rayjob.yaml")
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 4
    wrong["spec"]["backoffLimit"] = "2"
    assert len(rayjob_errors(wrong)) == 2


def test_the_rayjob_fits_together() -> None:
    """Every mounted volume exists, replicas are in their range, nothing but a GPU worker asks for a GPU."""
    cluster = load("deploy/rayjob.yaml")["spec"]["rayClusterSpec"]
    groups = cluster["workerGroupSpecs"]
    for template in (cluster["headGroupSpec"]["template"], *(group["template"] for group in groups)):
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        assert {
            mount["name"] for container in template["spec"]["containers"] for mount in container["volumeMounts"]
        } == volumes
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in groups)
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert "nvidia.com/gpu" not in str(cluster["headGroupSpec"])
    assert groups[0]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_rayjob_says_which_nodes_may_come() -> None:
    cluster = load("deploy/rayjob.yaml")["spec"]["rayClusterSpec"]
    (variable,) = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    (group,) = cluster["workerGroupSpecs"]
    resources = group["template"]["spec"]["containers"][0]["resources"]
    node = Node(int(resources["requests"]["cpu"]), int(resources["limits"]["nvidia.com/gpu"]), group["maxReplicas"])
    assert variable["name"] == VARIABLE
    assert parse_nodes(variable["value"]) == (node,)


def test_the_rayjob_runs_the_locked_ray_and_an_existing_command() -> None:
    spec = load("deploy/rayjob.yaml")["spec"]
    lock = (ROOT / "requirements.lock").read_text()
    assert re.search(rf"^ray=={re.escape(spec['rayClusterSpec']['rayVersion'])} ", lock, re.MULTILINE)
    command = spec["entrypoint"].split()
    assert command[:3] == ["python", "-m", "study.run"]
    build_parser().parse_args(command[3:])


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/on-premises.yaml", "deploy/rayjob.yaml", "deploy/Dockerfile"])
def test_no_secret_is_in_a_file(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"(?i)(AKIA[0-9A-Z]{16}|secret_?key|password|[0-9a-f]{32})", text)


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/rayjob.yaml", "deploy/Dockerfile"])
def test_what_was_not_tested_says_so(name: str) -> None:
    assert "Not tested" in "\n".join((ROOT / name).read_text().splitlines()[:4])
