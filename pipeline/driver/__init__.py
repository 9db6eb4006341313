"""A run from its INPUTs to its receipt: what is planned, tracked, published and recorded.

Knows the output's records and who does the work; knows neither pixels nor the network. Only
ray_runner.py imports Ray.

    request.py         what a command asks for, and the loop that is opened for it
    preparation.py     a request settled before the first byte is written: job, plan, memory
    division.py        the plan, divided for the runner that suits it
    survey.py          INPUTs to scenes: the headers of what is not planned yet
    planned_inputs.py  which INPUTs are new, changed since they were planned, or to be retried
    input_notes.py     notes on INPUTs: unavailable, changed, planned again, gone
    overlap_note.py    a note on scenes that cover the same ground
    batch.py           the batch of a new job, tried first if memory limits it
    plan_notes.py      what swath plan notes: OUT, too many failures, several runs
    quarantine.py      how many inputs may fail before a run stops, what failures have in common
    pinning.py         the commit of a checkpoint on the Hub
    plain_loop.py      a checkpoint, and units computed one after the other
    loop_process.py    a plain loop in a process of its own
    runner.py          the Runner protocol
    choose_runner.py   the runner that a plan was divided for
    local.py           the plain loop in this process
    loop_runner.py     the plain loop in a process that may die, and then Ray
    ray_runner.py      the flow on Ray with its publishers and metrics
    tracker.py         unit files as they appear, complete shards to publish, progress
    tally.py           the sums over the units that a run computed
    bottleneck.py      what limited the speed of a run, and what would relieve it
    warning_notes.py   warnings of a run, collected for its receipt
    laps.py            where the start of a run goes: checkpoint, headers, plan, Ray, replicas
    run_start.py       when a run started, the name of its records, its deadline
    receipt_writer.py  the receipt of a run, however it ends; inputs without an outcome
"""
