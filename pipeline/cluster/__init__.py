"""The flow of a run on Ray: its stages as actors and tasks, here or on a cluster.

Knows Ray, and alone does so; not what the stages compute or which units have an outcome.

session.py          the cluster: joined at an address or started here; its devices
ray_environment.py  Ray's variables, loopback switch and greeting while a run is connected
shared_paths.py     a check that every node sees the local paths of a job
flow.py             run_units: rounds until every unit has an outcome, and publishing
round.py            one round: Ray Data in a thread, watched and stopped
dataset.py          the Ray Data operators of a round: CPUs, GPUs, memory, retries, settings
callbacks.py        per-round callback classes: stop, time limit, how busy the replicas are
stages.py           ReadStage, UnitSink and the source of units as Ray Data runs them
replica_actor.py    SegmentStage, the actor of a replica; deaths while loading, broken GPUs
packing.py          a value as a row: one byte tensor that Ray does not copy
isolation.py        the last resort: a unit scene by scene in processes that may die
passed_error.py     an error of a stage as a value, which nothing on the way changes
ray_errors.py       Ray's errors in words of ours; what a round's log says
publishers.py       tasks that publish complete shards beside the flow
batch_trial.py      a trial of a batch by a task on a GPU of the cluster
metrics.py          what Prometheus scrapes from Ray
"""
