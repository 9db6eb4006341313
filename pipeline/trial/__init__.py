"""What is measured or tried on this machine, or on a cluster's GPU, before a run.

Knows replicas and a job's own stages; knows no output.

    results.py      what `swath plan` computes if asked to: a rate, samples
    calibration.py  --calibrate: seconds that a replica takes for a window
    dtype_note.py   --calibrate: whether another type is faster here, and how the classes agree
    samples.py      --sample: random blocks segmented and summarized, notes on them
    pictures.py     a sample's picture: pixels and classes side by side
    batch.py        the largest batch for which a device has memory
"""
