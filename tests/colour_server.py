"""An inference server on the tests' small pipeline whose jobs misbehave as their prompts say.

black: kills its process in the second step, as a crash in a native library does.
silver: each step takes far longer than a heartbeat lasts, and than a worker has to stop.
Any other: each step takes a hundredth of a second.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from caching_config import Settings, connect
from LatentRevisions.params import LatentRevisionsParams
from mead import log
from mead.data_url import open_storage
from mead.queue.jobs import Jobs
from mead.worker.admission import AdmissionControl
from mead.worker.process import serve
from mead.worker.worker import Worker, new_name
from tests.colours import ColourPipeline, ColourRevision, make_engine


class MisbehavingPipeline(ColourPipeline):
    """ColourPipeline with the prompts above."""

    def start(self, params: LatentRevisionsParams) -> ColourRevision:
        """As ColourPipeline."""
        revision = super().start(params)
        revision.prompt = params.prompt  # type: ignore[attr-defined]
        return revision

    def step(self, revisions: Sequence[ColourRevision]) -> None:
        """As ColourPipeline, but see the prompts above."""
        prompts = {revision.prompt for revision in revisions}  # type: ignore[attr-defined]
        if any(revision.prompt == "black" and revision.step == 1 for revision in revisions):  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(6 if "silver" in prompts else 0.01)
        super().step(revisions)


def main() -> None:
    """Serve both queues."""
    settings = Settings()
    log.set_up(settings)
    name, admission = new_name(), AdmissionControl()
    jobs = Jobs(connect(settings), settings.job_ttl)
    storage = open_storage(settings.data_url, settings.data_dir)
    engines = [
        make_engine(
            MisbehavingPipeline(), jobs, storage, queue=queue, worker=name, pause=0.2, admission=admission
        )
        for queue in (settings.queues[0], settings.queues[1])
    ]
    worker = Worker(name, engines, jobs, storage, ttl=settings.worker_ttl, attempts=settings.job_attempts)
    serve(worker, "colours")


if __name__ == "__main__":
    main()
