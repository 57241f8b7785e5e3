"""The commands that ask a service, against a real one whose worker makes colours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.conftest import ROOT, Service, end_of

pytestmark = pytest.mark.service


def mead(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mead", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment)


def asked(service: Service, *arguments: str, **more: Any) -> str:
    """What a command prints that succeeds."""
    done = mead(*arguments, MEAD_URL=service.url, **more)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def test_from_submission_to_picture(service: Service, tmp_path: Path) -> None:
    options = ["--iterations", "1", "--size", "64x64", "--upscale", "1", "--seed", "7"]
    ids = asked(service, "submit", "generate", "a red house", *options, "-n", "2", "--frames", "2").split()
    assert len(ids) == 2
    lapses = ["--timelapse", "house.webp"]
    paths = asked(service, "wait", *ids, "-o", "house.png", *lapses, cwd=tmp_path).split()
    assert paths == ["house.png", "house-2.png"]
    for name in ("house.webp", "house-2.webp"):
        assert (tmp_path / name).read_bytes()[:4] == b"RIFF"
    assert asked(service, "status", *ids).splitlines() == [f"{job_id}  succeeded" for job_id in ids]
    again = json.loads(asked(service, "submit", "generate", "a red house", *options, "--json"))
    assert again["seed"] == 7 and again["notes"] == []
    waited = json.loads(asked(service, "wait", *again["ids"], "--json", cwd=tmp_path))
    (picture,) = waited["pictures"]
    assert picture["seed"] == 7
    assert (tmp_path / picture["path"]).read_bytes() == (tmp_path / "house.png").read_bytes()
    assert asked(service, "keep", *ids) == "".join(f"{job_id}  kept\n" for job_id in ids)
    assert json.loads(asked(service, "keep", "--undo", ids[0], "--json")) == {ids[0]: "released"}
    assert [json.loads(asked(service, "status", ids[n], "--json"))[0].get("kept") for n in (0, 1)] == [
        None,
        True,
    ]
    assert asked(service, "jobs", "--kept", "--limit", "1").startswith(f"{ids[1]}  ")
    listed = asked(service, "jobs", "--limit", "1")
    assert listed.startswith(again["ids"][0]) and listed.endswith("  succeeded  a red house\n")
    records = json.loads(asked(service, "jobs", "--group", ids[0], "--json"))
    assert [record["id"] for record in records] == ids
    queues = json.loads(asked(service, "queue", "--json"))
    assert queues["queues"][0]["capacity"] == 4 and len(queues["workers"]) == 1
    assert "latentrevisions_queue: 0 waiting" in asked(service, "queue")


def test_going_on(service: Service, tmp_path: Path) -> None:
    options = ["--size", "64x64", "--upscale", "1", "--seed", "7"]
    first, whole = (
        asked(service, "submit", "generate", "a red house", "--iterations", steps, *options).strip()
        for steps in ("1", "3")
    )
    asked(service, "wait", first, whole, cwd=tmp_path)
    longer = asked(service, "submit", "--from", first, "--iterations", "2").strip()
    asked(service, "wait", longer, cwd=tmp_path)
    assert (tmp_path / f"{longer}.png").read_bytes() == (tmp_path / f"{whole}.png").read_bytes()
    told = json.loads(asked(service, "submit", "--from", longer, "--iterations", "1", "--json"))
    assert len(told["ids"]) == 1 and told["notes"] == []
    for arguments in (["--iterations", "2"], ["--from", first, "generate", "x"], []):
        wrong = mead("submit", *arguments, MEAD_URL=service.url)
        assert wrong.returncode == 2 and "or --from ID alone" in wrong.stderr
    gone = mead("submit", "--from", "0" * 32, MEAD_URL=service.url)
    assert gone.returncode == 1 and gone.stderr == f"mead: from: there is no job {'0' * 32}\n"


def test_an_edit(service: Service, face: Path, tmp_path: Path) -> None:
    job_id = asked(service, "submit", "edit", str(face), "a person with glasses", "--iterations", "1").strip()
    assert asked(service, "wait", job_id, cwd=tmp_path) == f"{job_id}.png\n"
    assert (tmp_path / f"{job_id}.png").read_bytes().startswith(b"\x89PNG")
    weaker = asked(service, "submit", "--from", job_id, "--strength", "0.5", "--output", "pair").strip()
    asked(service, "wait", weaker, cwd=tmp_path)
    with Image.open(tmp_path / f"{weaker}.png") as pair, Image.open(face) as photo:
        assert pair.size == (2 * photo.width, photo.height)


def test_cancelling(service: Service) -> None:
    ids = asked(service, "submit", "generate", "a red house", "--iterations", "2000", "-n", "3").split()
    assert asked(service, "cancel", ids[1]) == f"{ids[1]}  cancelled\n"
    assert asked(service, "cancel", "--group", ids[0]) == f"{ids[0]}  cancelled\n"
    assert [end_of(service.jobs, job_id).status for job_id in ids] == ["cancelled"] * 3
    late = mead("cancel", ids[0], "--json", MEAD_URL=service.url)
    assert late.returncode == 1 and "has already ended" in json.loads(late.stdout)[ids[0]]
    waited = mead("wait", ids[0], MEAD_URL=service.url)
    assert waited.returncode == 1 and waited.stderr == f"mead: job {ids[0]} was cancelled\n"
    refused = mead("retry", ids[0], MEAD_URL=service.url)
    assert refused.returncode == 1 and "cannot run again" in refused.stderr


def test_exit_codes(service: Service, tmp_path: Path) -> None:
    unknown = mead("status", "0" * 32, MEAD_URL=service.url)
    assert unknown.returncode == 1 and unknown.stderr == f"mead: there is no job {'0' * 32}\n"
    wrong = mead("submit", "generate", "x", "--w0", "heavy", MEAD_URL=service.url)
    assert wrong.returncode == 2 and wrong.stderr == "mead: w0: must be a number\n"
    away = mead("jobs", MEAD_URL="http://me:secret@127.0.0.1:1/")
    said = "mead: the service at http://127.0.0.1:1 (MEAD_URL) does not answer: "
    assert away.returncode == 3 and away.stderr.startswith(said)
    elsewhere = mead("submit", "--from", "0" * 32, "--url", service.url + "/below")
    said = f"mead: {service.url}/below is not the address of a mead-backend: "
    assert elsewhere.returncode == 1 and elsewhere.stderr.startswith(said)


def test_nobody_takes_the_job(waiting_room: Service) -> None:
    done = mead("submit", "generate", "a red house", MEAD_URL=waiting_room.url)
    assert done.returncode == 3 and "no inference server" in done.stderr
    assert mead("queue", MEAD_URL=waiting_room.url).stdout.endswith("no inference server is running\n")
