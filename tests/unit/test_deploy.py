"""The files of docs/deploy: they can be read, and every option and setting in them is one that there is."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.cluster import alive, started
from support.etcd import etcd_program

from openset.cli import main
from openset.cluster.etcd_address import parse_address

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())
NODES = [f"openset{number}" for number in (1, 2, 3)]
ETCD = [f"etcd{number}" for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def etcd_options() -> set[str]:
    """The options of the etcd that the tests run with, the oldest one that is supported."""
    told = subprocess.run([etcd_program(), "--help"], capture_output=True, text=True, timeout=30)
    return set(re.findall(r"--[a-z0-9-]+", told.stdout + told.stderr))


def served(command: list[str]) -> dict[str, Any]:
    """The parameters of a command line that begins with `serve`; it must be one."""
    assert command[0] == "serve"
    context = main.commands["serve"].make_context("serve", command[1:])
    return context.params


def variables() -> set[str]:
    return {str(parameter.envvar) for parameter in main.commands["serve"].params}  # type: ignore[attr-defined]


def settings(name: str) -> dict[str, str]:
    """The lines of an environment file."""
    lines = [line for line in (DEPLOY / name).read_text().splitlines() if line and not line.startswith("#")]
    found = dict(line.split("=", 1) for line in lines)
    assert len(found) == len(lines)
    return found


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((DEPLOY / name).read_text())
    assert parser.sections() == ["Unit", "Service", "Install"]
    return parser


def check_coordinator(text: str, ca: str, cert: str, key: str) -> None:
    """etcd's address has three hosts and the certificates that the node has."""
    assert text.startswith("etcd://") and text.count(":2379") == 3
    assert set(text.partition("?")[2].split("&")) == {f"ca={ca}", f"cert={cert}", f"key={key}"}
    assert len(parse_address(text).endpoints) == 3


def test_every_service_of_the_compose_file_is_there() -> None:
    assert set(COMPOSE["services"]) == {*NODES, *ETCD} == set(COMPOSE["volumes"])
    for name, service in COMPOSE["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD" and service["volumes"][0] == f"{name}:/data"


@pytest.mark.parametrize("name", NODES)
def test_nodes_of_the_compose_file_are_served_with_options_that_there_are(name: str) -> None:
    service = COMPOSE["services"][name]
    given = served(service["command"])
    assert (given["host"], given["cluster_host"], str(given["data_dir"])) == ("0.0.0.0", name, "/data")
    environment = service["environment"]
    assert environment.keys() <= variables()
    cert, key = f"/certs/{name}.pem", f"/certs/{name}-key.pem"
    assert (environment["OPENSET_CLUSTER_CERT"], environment["OPENSET_CLUSTER_KEY"]) == (cert, key)
    check_coordinator(environment["OPENSET_COORDINATOR"], "/certs/ca.pem", cert, key)


@pytest.mark.parametrize("name", ETCD)
def test_members_of_etcd_are_started_with_options_that_there_are(name: str, etcd_options: set[str]) -> None:
    program, *arguments = COMPOSE["services"][name]["command"]
    given = dict(argument.partition("=")[::2] for argument in arguments)
    assert program == "etcd" and given.keys() <= etcd_options
    assert given["--name"] == name and given["--cert-file"] == f"/certs/{name}.pem"
    assert all(f"{other}=https://{other}:2380" in given["--initial-cluster"] for other in ETCD)


def test_the_image_serves() -> None:
    lines = (DEPLOY / "Dockerfile").read_text()
    command = re.search(r"^CMD (\[.*\])$", lines, re.MULTILINE)
    assert command is not None and 'ENTRYPOINT ["openset"]' in lines
    assert served(yaml.safe_load(command[1]))["host"] == "0.0.0.0"


def test_the_unit_of_a_node() -> None:
    service = unit("openset@.service")["Service"]
    program, *command = shlex.split(service["ExecStart"].replace("%i", "node1"))
    assert Path(program).name == "openset"
    assert str(served(command)["data_dir"]) == "/var/lib/" + service["StateDirectory"].replace("%i", "node1")
    given = settings("node.env")
    assert given.keys() <= variables()
    host = given["OPENSET_CLUSTER_HOST"]
    cert, key = given["OPENSET_CLUSTER_CERT"], given["OPENSET_CLUSTER_KEY"]
    assert Path(cert).name == f"{host}.pem" and Path(key).name == f"{host}-key.pem"
    check_coordinator(given["OPENSET_COORDINATOR"], given["OPENSET_CLUSTER_CA"], cert, key)


def test_the_unit_of_etcd(etcd_options: set[str]) -> None:
    service = unit("etcd.service")["Service"]
    assert service["EnvironmentFile"] == "/etc/etcd/etcd.env" and service["ExecStart"] == "/usr/bin/etcd"
    given = settings("etcd.env")
    options = {"--" + name.removeprefix("ETCD_").lower().replace("_", "-") for name in given}
    assert options <= etcd_options
    assert given["ETCD_INITIAL_CLUSTER"].count("https://") == 3
    assert given["ETCD_DATA_DIR"] == "/var/lib/" + service["StateDirectory"]


def test_nodes_know_each_other_by_the_certificates_of_the_script(tmp_path: Path) -> None:
    for hosts in (["one,127.0.0.1", "two,localhost,127.0.0.1"], ["three,10.0.0.3"]):
        done = subprocess.run(
            ["sh", DEPLOY / "make-certificates.sh", tmp_path / "certs", *hosts],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    for name in ("one", "two", "three"):
        certificate = x509.load_pem_x509_certificate((tmp_path / "certs" / f"{name}.pem").read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert name in names.get_values_for_type(x509.DNSName)
        assert "127.0.0.1" in map(str, names.get_values_for_type(x509.IPAddress))
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert {*usage} == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        assert (tmp_path / "certs" / f"{name}-key.pem").stat().st_mode & 0o077 == 0
    certs = {"ca": "ca", "cert": "one", "key": "one-key"}
    files = {option: str(tmp_path / "certs" / f"{name}.pem") for option, name in certs.items()}
    with started(tmp_path / "nodes", 2, cluster={"secret": None, **files}) as cluster:
        names_ = {node.name for node in cluster.nodes}
        cluster.wait_for("both live", lambda status: alive(status) == names_)
