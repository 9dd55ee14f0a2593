"""A run for the tests that kill it: SCAN OUT PIPELINE-JSON WORKERS BLOCKS.

It kills itself once so many blocks are done, or never with -1: so no test has to be quick.
"""

import json
import os
import signal
import sys

import scripted
import whole_scan

from mrsi_engine.engine.driver import run
from mrsi_engine.engine.events import BlockDone, RunStarted
from mrsi_engine.engine.plan import plan
from mrsi_engine.pipeline.pipeline import Pipeline


class KillAfter:
    """A sink that kills its process."""

    def __init__(self, blocks):
        self._left = blocks

    def __call__(self, event):
        self._left -= isinstance(event, BlockDone)
        if self._left == 0 and isinstance(event, RunStarted | BlockDone):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    assert scripted.Script.stage
    assert whole_scan.Template.stage
    scan, out, settings, workers, blocks = sys.argv[1:]
    pipeline = Pipeline.from_settings(json.loads(settings))
    todo = plan(scan, pipeline, None, out, block_size=2)
    run(todo, workers=int(workers), sinks=[KillAfter(int(blocks))])
