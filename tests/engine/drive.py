"""A run for the tests that kill it: SCAN OUT PIPELINE-JSON WORKERS."""

import json
import sys

import scripted
import whole_scan

from mrsi_engine.engine.driver import run
from mrsi_engine.engine.plan import plan
from mrsi_engine.pipeline.pipeline import Pipeline

if __name__ == "__main__":
    assert scripted.Script.stage
    assert whole_scan.Template.stage
    scan, out, settings, workers = sys.argv[1:]
    pipeline = Pipeline.from_settings(json.loads(settings))
    run(plan(scan, pipeline, None, out, block_size=2), workers=int(workers))
