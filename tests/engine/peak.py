"""Most memory of a process that does all passes and two blocks of a plan: RESULT. Prints bytes."""

import resource
import sys

from mrsi_engine.engine.blocks import run_block
from mrsi_engine.engine.passes import finish_pass, next_pass, run_part
from mrsi_engine.engine.plan import Plan

if __name__ == "__main__":
    plan = Plan.open(sys.argv[1])
    while (todo := next_pass(plan)) is not None:
        for part in todo.missing():
            run_part(todo, part)
        finish_pass(todo)
    for block in (0, 1):
        run_block(plan, block)
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
