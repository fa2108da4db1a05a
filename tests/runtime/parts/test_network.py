"""A scheduler and workers that are other machines: TLS, consent, or nothing."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dask_machines import Machines
from hsi_run import PIXELS, assert_same_maps, command, start_afresh
from namespaces import NET, Namespaces

pytest.importorskip("distributed")
ROLES = ("CLIENT", "SCHEDULER", "WORKER")


@pytest.fixture(scope="module")
def namespaces() -> Iterator[Namespaces]:
    with Namespaces(2) as made:
        yield made


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def certificates(folder: Path) -> dict[str, str]:
    """Make an authority and a certificate of it; return dask's variables for them."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl for certificates")
    folder.mkdir()
    ca, ca_key, request = (str(folder / f"{n}.pem") for n in ("ca", "ca_key", "req"))
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    new = ["req", "-newkey", "rsa:2048", "-nodes", "-subj"]
    openssl(*new, "/CN=authority", "-x509", "-days", "2", "-keyout", ca_key, "-out", ca)
    openssl(*new, "/CN=machine", "-keyout", key, "-out", request)
    sign = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2"]
    openssl("x509", "-req", "-in", request, *sign, "-out", cert)
    prefix = "DASK_DISTRIBUTED__COMM__TLS__"
    variables = {f"{prefix}CA_FILE": ca}
    for role in ROLES:
        variables |= {f"{prefix}{role}__CERT": cert, f"{prefix}{role}__KEY": key}
    return variables


def run(
    place: Path, namespaces: Namespaces, environment: dict[str, str], *more: str
) -> "subprocess.CompletedProcess[str]":
    """Run the command in the namespace of the scheduler."""
    return subprocess.run(
        [*namespaces.inside(0), *command(place, "many.tif", *more)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
    )


def start(machines: Machines, namespaces: Namespaces) -> str:
    """Start a scheduler in the hub, and a worker in each spoke."""
    address = machines.start_scheduler(prefix=namespaces.inside(0))
    for number in (1, 2):
        machines.start_worker("--no-nanny", prefix=namespaces.inside(number))
    machines.wait_for_workers()
    return address


def assert_computed_by_both(place: Path, out: str) -> None:
    assert_same_maps(place)
    rows: list[dict[str, Any]] = json.loads(out)["parts"]
    assert sum(row["pixels"] for row in rows) == PIXELS
    assert [row["attempts"] for row in rows] == [1] * len(rows)
    assert len({row["worker"] for row in rows}) == 2


def test_without_tls_it_is_refused_or_allowed(
    place: Path, namespaces: Namespaces, tmp_path: Path
) -> None:
    start_afresh(place)
    with Machines(tmp_path / "dask", namespaces.hub) as machines:
        address = start(machines, namespaces)
        where = ["--scheduler", address]
        refused = run(place, namespaces, machines.environment, *where)
        assert refused.returncode == 2
        assert f"{namespaces.hub} is another machine" in refused.stderr
        assert not list(place.glob("many*"))
        where.append("--insecure-cluster")
        allowed = run(place, namespaces, machines.environment, *where)
        assert allowed.returncode == 0, allowed.stderr
        assert_computed_by_both(place, allowed.stdout)


def test_with_tls_it_works(place: Path, namespaces: Namespaces, tmp_path: Path) -> None:
    start_afresh(place)
    trusted = certificates(tmp_path / "trusted")
    options = namespaces.hub, "tls", trusted
    with Machines(tmp_path / "dask", *options) as machines:
        where = ["--scheduler", start(machines, namespaces)]
        assert where[1].startswith(f"tls://{namespaces.hub}:")
        done = run(place, namespaces, machines.environment, *where)
        assert done.returncode == 0, done.stderr
        assert_computed_by_both(place, done.stdout)
        for number in (0, 1):
            here = f"worker at: tls://{NET}.{number + 1}:"
            assert here in " ".join(machines.log(f"worker{number}").split())
        # A certificate of another authority, none, and files that are not there.
        strange = machines.environment | certificates(tmp_path / "strange")
        refused = run(place, namespaces, strange, *where, "--overwrite")
        assert refused.returncode == 75
        assert "The scheduler cannot be reached: " in refused.stderr
        bare = {k: v for k, v in machines.environment.items() if k not in trusted}
        refused = run(place, namespaces, bare, *where, "--overwrite")
        assert refused.returncode == 2
        assert "tls:// needs certificates." in refused.stderr
        shutil.rmtree(tmp_path / "trusted")
        refused = run(place, namespaces, machines.environment, *where, "--overwrite")
        assert refused.returncode == 2
        assert "certificates of dask's configuration cannot be read" in refused.stderr
        plain = where[1].replace("tls://", "tcp://")
        refused = run(
            *(place, namespaces, machines.environment, "--overwrite"),
            *("--scheduler", plain, "--insecure-cluster"),
        )
        assert refused.returncode == 75
        for one in (done, refused):
            assert "Traceback" not in one.stderr
