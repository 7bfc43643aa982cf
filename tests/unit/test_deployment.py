"""The files that describe clusters, held against Ray's own schema, KubeRay's fields, the lock file and each other."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import click
import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import drain_node

from study.cluster.nodes import VARIABLE, parse_nodes
from study.command_line.options import build_parser
from study.plan.resources import Node

ROOT = Path(__file__).parents[2]
LAUNCHER_FILES = ("cluster.yaml", "deploy/on-premises.yaml")
SKYPILOT_SCHEMAS = Path(__file__).parents[1] / "data" / "skypilot_0_14_1.json"
RAYJOB_SCHEMA = Path(__file__).parents[1] / "data" / "rayjob_v1_reduced.json"


DEPLOYED = (
    "cluster.yaml",
    *(f"deploy/{path.name}" for path in sorted((ROOT / "deploy").iterdir()) if path.suffix != ".sh"),
)


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


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_no_secret_of_the_folder_is_copied_to_a_node(name: str, tmp_path: Path) -> None:
    """Held with rsync itself, as `ray up` calls it."""
    for file in (".env", ".env.local", "wandb/settings", "results/x", ".netrc", "study/run.py"):
        (tmp_path / "project" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "project" / file).touch()
    excluded = [f"--exclude={pattern}" for pattern in load(name)["rsync_exclude"]]
    subprocess.run(["rsync", "-a", *excluded, f"{tmp_path}/project/", f"{tmp_path}/node/"], check=True, timeout=60)
    files = [
        path.relative_to(tmp_path / "node").as_posix() for path in (tmp_path / "node").rglob("*") if path.is_file()
    ]
    assert files == ["study/run.py"]


def test_the_aws_cluster_is_closed_encrypted_and_falls_back_to_machines_on_demand() -> None:
    content = load("cluster.yaml")
    types = content["available_node_types"]
    for kind in types.values():
        assert kind["node_config"]["SecurityGroupIds"] == types["head"]["node_config"]["SecurityGroupIds"], (
            "not Ray's own"
        )
        assert all(disk["Ebs"]["Encrypted"] for disk in kind["node_config"]["BlockDeviceMappings"])
    spot, on_demand = (dict(types[name]["node_config"]) for name in ("gpu_worker", "gpu_worker_on_demand"))
    assert spot.pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot == on_demand


def test_the_skypilot_task_is_valid_for_skypilot() -> None:
    task, schemas = load("deploy/skypilot.yaml"), json.loads(SKYPILOT_SCHEMAS.read_text())
    for schema, content in (
        ("task", task),
        ("resources", task["resources"]),
        ("storage", *task["file_mounts"].values()),
    ):
        jsonschema.validate(content, schemas[schema])
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**content, "acelerators": "L4:1"}, schemas[schema])
    (command,) = re.findall(r"-m study\.run (.*)", task["run"])
    build_parser().parse_args(shlex.split(command))


def test_the_slurm_script_runs_an_existing_command() -> None:
    script = (ROOT / "deploy" / "slurm.sbatch").read_text()
    subprocess.run(["bash", "-n", str(ROOT / "deploy" / "slurm.sbatch")], check=True, timeout=20)
    (shown,) = re.findall(r"^#     sbatch deploy/slurm\.sbatch (.*)$", script, re.MULTILINE)
    build_parser().parse_args(shown.split())


def test_the_launcher_files_share_their_commands() -> None:
    aws, local = (load(name) for name in LAUNCHER_FILES)
    for key in ("head_start_ray_commands", "file_mounts", "rsync_exclude"):
        assert aws[key] == local[key]
    *shared, notice = aws["worker_start_ray_commands"]
    assert shared == local["worker_start_ray_commands"]
    assert "deploy/spot-notice.sh" in notice


class Metadata(BaseHTTPRequestHandler):
    """What a spot machine of AWS is told: nothing at first, then that it is taken."""

    asked: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        self._answer(200, b"key")

    def do_GET(self) -> None:
        self.asked.append(f"{self.path} {self.headers['X-aws-ec2-metadata-token']}")
        self._answer(404 if len(self.asked) == 1 else 200, b'{"action": "terminate"}')

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)


def test_a_spot_machine_that_is_taken_is_drained(tmp_path: Path) -> None:
    """Asked until the notice is there; then Ray's own command, whose options exist."""
    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\nfor a; do echo "$a"; done >"$(dirname "$0")/drained"\n')
    ray.chmod(0o755)
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        subprocess.run(
            ["bash", str(ROOT / "deploy" / "spot-notice.sh")], check=True, timeout=30, capture_output=True,
            env={"PATH": f"{tmp_path}:/usr/bin:/bin", "METADATA_URL": f"http://127.0.0.1:{server.server_port}", "INTERVAL_S": "0.05"},
        )  # fmt: skip
        server.shutdown()
    assert Metadata.asked == ["/latest/meta-data/spot/instance-action key"] * 2
    command, *arguments = (tmp_path / "drained").read_text().splitlines()
    assert command == "drain-node"
    assert (
        drain_node.make_parser(click.Context(drain_node)).parse_args(arguments)[0]["reason"]
        == "DRAIN_NODE_REASON_PREEMPTION"
    )


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


def test_the_rayjob_may_write_its_claim_and_names_one_image() -> None:
    """Every pod runs as the user of the image, whose group owns the claim's files; the image is pinned by its digest."""
    cluster = load("deploy/rayjob.yaml")["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"]["template"]["spec"], *(g["template"]["spec"] for g in cluster["workerGroupSpecs"])]
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    tag, uid = re.search(r"-t (\S+)", dockerfile), re.search(r"--uid (\d+)", dockerfile)
    assert tag
    assert uid
    (image,) = {container["image"] for pod in pods for container in pod["containers"]}
    assert re.fullmatch(rf"{re.escape(tag.group(1))}@sha256:[0-9a-f]{{64}}", image)
    claim = load("deploy/claim.yaml")
    for pod in pods:
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == int(uid.group(1))
        assert [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]] == [
            claim["metadata"]["name"]
        ]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert [pod.get("tolerations", [{}])[0].get("key") for pod in pods] == [None, "nvidia.com/gpu"]


def test_the_rayjob_says_which_nodes_may_come() -> None:
    cluster = load("deploy/rayjob.yaml")["spec"]["rayClusterSpec"]
    environment = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    (variable,) = [entry for entry in environment if "value" in entry]
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


@pytest.mark.parametrize("name", DEPLOYED)
def test_no_secret_is_in_a_file(name: str) -> None:
    text = re.sub(r"@sha256:0{64}", "", (ROOT / name).read_text())  # where a digest is to be put
    assert not re.search(r"(?i)(AKIA[0-9A-Z]{16}|secret_?key(?!Ref: )|password|[0-9a-f]{32})", text)


@pytest.mark.parametrize("name", [name for name in DEPLOYED if name != "deploy/on-premises.yaml"])
def test_what_was_not_tested_says_so(name: str) -> None:
    assert "Not tested" in "\n".join((ROOT / name).read_text().splitlines()[:9])
