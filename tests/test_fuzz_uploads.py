"""No picture and no form brings the service down: a short run of benchmarks/fuzz_uploads.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fuzz_uploads import Fuzzing
from mead.cli.local_service import local_service

pytestmark = pytest.mark.service


def test_pictures_and_forms_of_strangers(tmp_path: Path) -> None:
    with local_service(tmp_path / "data", logs=tmp_path, environment={"TORCH_THREADS": "1"}) as service:
        fuzzing = Fuzzing(service, seed=1, threads=4)
        fuzzing.send_all(range(60))
        fuzzing.wait_for_jobs()
        fuzzing.check_processes()
        fuzzing.check_logs()
    answers = fuzzing.report.answers
    assert not fuzzing.report.wrong
    assert answers[202] > 5 and answers[415] > 10 and answers[400] > 5 and sum(answers.values()) == 60
    assert fuzzing.report.jobs["succeeded"] > 5
