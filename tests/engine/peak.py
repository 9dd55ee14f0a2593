"""Most memory of a process that does all passes and two blocks of a plan: RESULT. Prints bytes."""

import sys
from pathlib import Path

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
    # Not of getrusage: that of a child begins with what its parent had.
    status = Path("/proc/self/status").read_text()
    print(1024 * int(status.split("VmHWM:")[1].split()[0]))
