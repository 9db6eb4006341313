"""What runs on a cluster's machines beside Ray, and the files that start clusters.

README.md walks from nothing to a finished job. The programs know Ray's nodes and the clouds'
notices, nothing of a job.

    notices.py      what a cloud says about the end of this machine
    node.py         the Ray node on this machine: found by its raylet, drained, awaited
    spot.py         the command that drains the node when the cloud takes the machine back
    warm_triton.py  a step of the image: compiles Triton's C file, so it needs no compiler
"""
