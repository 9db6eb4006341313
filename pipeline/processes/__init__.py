"""Processes: what one may use, how it is limited, and workers that may crash.

Keeps a crash, a hang or a shortage of memory from taking the run down; does not know what work the
processes do.

host.py           available_cores, available_memory_bytes: affinity and control groups (cgroups)
limits.py         process_limits: a time limit and a memory limit for work in this process
worker.py         serve: what a worker process does
worker_process.py WorkerProcess: a worker process as its parent sees it
sandbox.py        run_in_sandbox: a function over many items in worker processes that may die
companion.py      Companion: an object in a process of its own, which may die
fresh_process.py  run_in_fresh_process: a single call in a new process
hidden_modules.py hidden_modules: modules that libraries look for and nobody needs
variables.py      settle_variables: no environment variable decides rows
endpoint.py       check_listening, is_loopback: a host and port, and who listens there
"""
