"""Divides scenes into units and predicts what they take: windows, memory, hours.

Pure arithmetic over headers: knows neither files nor Ray, and reads no pixels.

    workload.py       windows, bytes and nominal seconds of a block or a unit; the network's numbers
    machine.py        the device, the number of replicas and of tasks that a run uses
    memory_need.py    the peak memory of each kind of process
    memory_budget.py  how many processes fit into the machine's memory, or the refusal
    core_size.py      the size of a scene's blocks; storage tiles that are larger
    planner.py        scenes to blocks, units and shards; the default batch
    runner_choice.py  whether a plain loop is faster than Ray
    forecast.py       hours, cost and the other numbers of an Estimate
"""
