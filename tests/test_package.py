"""What `pip install .` gives, used from an empty folder and without the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from mead.installation import ROOT, version

pytestmark = pytest.mark.slow

CODE = ("LatentRevisions", "StyleCLIP", "mead")
SCRIPTS = ("app.py", "caching_config.py", "caching_server.py", "inference_server.py")
DATA = ("weights/demo", "tests/data")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
FILES = (*SCRIPTS, "LICENSE", "README.md", "pyproject.toml", "requirements.txt", "weights/manifest.toml")


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that knows nothing of this process but PATH, with one thread of PyTorch's."""
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built of a copy: setuptools writes into the folder it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in (*CODE, *DATA):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    wheel = ["wheel", "--no-index", "--no-deps", "--no-build-isolation"]
    run(*PIP, *wheel, "--wheel-dir", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment with the package, and with our own environment's packages."""
    environment = tmp_path_factory.mktemp("an environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    python = environment / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=environment)
    (Path(purelib.stdout.strip()) / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(*PIP, "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=environment)
    return environment / "bin"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_wheel_has_all_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    code = {
        f"{folder}/{name}" for folder in CODE for name in files(ROOT / folder) if "__pycache__" not in name
    }
    assert code | set(SCRIPTS) <= packed
    shipped = {name.removeprefix("mead/shipped/") for name in packed if name.startswith("mead/shipped/")}
    weights = {f"weights/demo/{path.name}" for path in (ROOT / "weights" / "demo").glob("*.safetensors")}
    assert shipped == weights | {"weights/manifest.toml", "tests/data/face.jpeg"}
    assert f"mead_backend-{version()}.dist-info/licenses/LICENSE" in packed


def test_the_demo(programs: Path, tmp_path: Path) -> None:
    done = run(programs / "mead", "demo", cwd=tmp_path, HOME=str(tmp_path))
    assert len(done.stdout.splitlines()) == 2
    pictures = [name for name in files(tmp_path) if name.endswith(".png")]
    assert sorted(Path(name).parent.name for name in pictures) == ["latentrevisions_out", "styleclip_out"]


def test_the_classes(programs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from LatentRevisions.LatentRevisions import LatentRevisions; "
        "from StyleCLIP.StyleCLIP import StyleCLIP; "
        "print(sys.modules['mead'].__file__, LatentRevisions(prompt='a boat', iterations=1).run(), sep='\\n')"
    )
    done = run(programs / "python", "-c", code, cwd=tmp_path, HOME=str(tmp_path))
    module, picture = done.stdout.splitlines()
    assert Path(module).is_relative_to(programs.parent)
    assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_the_client_needs_few_packages(wheel: Path, tmp_path: Path) -> None:
    """httpx2 and what it needs, as docs/python.md says; no PyTorch, nothing of the service."""
    packages = tmp_path / "packages"
    run(*PIP, "install", "--no-index", "--no-deps", "--target", packages, wheel, cwd=tmp_path)
    ours = Path(sysconfig.get_path("purelib"))
    for name in ("anyio", "h11", "httpcore2", "httpx2", "idna", "truststore", "typing_extensions"):
        for path in ours.glob(f"{name}*"):
            (packages / path.name).symlink_to(path)
    code = (
        "from mead.client import Client, UnreachableError\n"
        "try: Client('http://127.0.0.1:1', patience=0).generate('a house')\n"
        "except UnreachableError: print('away')"
    )
    done = run(sys.executable, "-S", "-c", code, cwd=tmp_path, PYTHONPATH=str(packages))
    assert done.stdout == "away\n"


def test_weights_of_ones_own_go_to_the_users_folder(programs: Path, tmp_path: Path) -> None:
    before = files(programs.parent)
    listed = run(programs / "mead", "weights", "list", cwd=tmp_path, HOME=str(tmp_path)).stdout
    assert f"are in {tmp_path}/.local/share/mead/weights." in listed and "here, never verified" in listed
    data = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    run(programs / "mead", "weights", "verify", "demo", cwd=tmp_path, **data)
    assert "here, verified" in run(programs / "mead", "weights", "list", cwd=tmp_path, **data).stdout
    assert files(tmp_path) >= {"data/mead/weights/demo/lock.json"}
    assert {name for name in files(programs.parent) - before if not name.endswith(".pyc")} == set()


def test_missing_demo_weights_come_back_with_the_package(programs: Path, tmp_path: Path) -> None:
    code = (
        "from mead.weights.sets import FOLDER, WeightSet; file = FOLDER / 'demo' / 'clip.safetensors'; "
        "file.rename(f'{file}.away')\n"
        "try: WeightSet.find('demo').files['clip'].check()\n"
        "except Exception as error: print(error)\n"
        "finally: file.with_name('clip.safetensors.away').rename(file)"
    )
    said = run(programs / "python", "-c", code, cwd=tmp_path, HOME=str(tmp_path)).stdout
    assert "is missing; install mead-backend again" in said


def test_the_pages(programs: Path, tmp_path: Path) -> None:
    code = (
        "from caching_config import Settings; from mead.http.app import create_app; "
        "ask = create_app(Settings()).test_client().get; "
        "print(*(ask(path).status_code for path in ('/', '/page/page.js', '/docs', '/docs/start.js'))); "
        "print(ask('/openapi.json').json['info']['version'])"
    )
    done = run(programs / "python", "-c", code, cwd=tmp_path, HOME=str(tmp_path))
    assert done.stdout == f"200 200 200 200\n{version()}\n"
