"""A client that openapi-generator makes for TypeScript: it compiles, and it works.

It needs `openapi-generator-cli` (from PyPI or npm, with Java), `tsc` and `node` on the PATH, as the service
does not, and is skipped where they are missing.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import requests

from tests.conftest import Service, end_of

PROGRAMS = ("openapi-generator-cli", "java", "tsc", "node")

pytestmark = [
    pytest.mark.service,
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(shutil.which, PROGRAMS)), reason=f"needs {', '.join(PROGRAMS)}"),
]

SCRIPT = """
const { Configuration, JobsApi, PicturesApi } = require("./compiled/index.js");
const configuration = new Configuration({ basePath: process.argv[2] });
(async () => {
  const form = { prompt: "a red house", seed: 7, iterations: 1, size: "64x64", upscale: 1 };
  const made = await new PicturesApi(configuration).latentRevision(form);
  const record = await new JobsApi(configuration).record({ jobId: made.id });
  const png = await new JobsApi(configuration).image({ jobId: made.id });
  console.log(made.id, record.status, png.type, (await png.text()).length > 0);
})();
"""


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_it_compiles_and_makes_a_picture(service: Service, tmp_path: Path) -> None:
    (tmp_path / "openapi.json").write_text(requests.get(f"{service.url}/openapi.json", timeout=60).text)
    options = ["-g", "typescript-fetch", "-i", "openapi.json", "-o", "client"]
    assert " ERROR " not in run(tmp_path, "openapi-generator-cli", "generate", *options)
    strict = ["--strict", "--target", "es2020", "--lib", "es2020,dom"]
    run(tmp_path, "tsc", *strict, "--module", "nodenext", "--outDir", "compiled", "client/index.ts")
    (tmp_path / "make.js").write_text(SCRIPT)
    job_id, *told = run(tmp_path, "node", "make.js", service.url).split()
    assert told == ["succeeded", "image/png", "true"] and end_of(service.jobs, job_id).status == "succeeded"
