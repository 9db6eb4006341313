"""Programs that measure speed, each run as `python -m bench.speed.NAME`.

forward.py    a forward pass, against transformers, OpenVINO and ONNX Runtime
page.py       the tables of docs/speed.md, from the results of forward.py
sliding.py    a picture through sliding windows, against the usual loops
gpu.py        the same on a GPU, eager and compiled
blend.py      from logits to class ids, against slice-add
dtypes.py     bfloat16 and float16 against float32: speed and agreement
whole.py      a whole job against the engine alone
overlap.py    a replica kept busy while others read from S3
driver.py     the work that one driver can feed, and publishing
finishing.py  from class ids to a unit's file
status.py     `swath status` on 100,000 units
refusals.py   the time until a run refuses what cannot work
"""
