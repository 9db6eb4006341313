"""Code shared by tests and benchmarks: inputs, oracles, faults, servers and clusters.

Contains no tests, and nothing in the packages imports it.

archives.py              GeoTIFFs of random colors, and masks read back from an output
area_oracle.py           the area of a pixel by pyproj alone
broken_inputs.py         archives with damaged scenes, runs that crash, and counts that must agree
campaign_records.py      the records of the crash campaign, their summary and table
checkpoints.py           checkpoints with random weights, also in small sizes
cluster_page.py          docs/cluster.md run line by line on an S3 server
clusters.py              a Ray cluster of another process, with a token
commands.py              Swath's commands run in this process: exit codes and what they print
crashing_headers.py      files whose header crashes or hangs the process that reads it
damaged_files.py         mutations of image files: bit rot, truncation, swapped headers
estimates.py             a made-up estimate of `swath plan`
fault_cases.py           the list of cases of the crash campaign: fault, phase, runner
fault_injection.py       faults done to a run: signals, damaged requests, a store that stops
fault_proxy.py           an HTTP proxy that answers 503, cuts, resets, delays or holds requests
foreign_checkpoints.py   weights under the names of transformers, nvlabs and mmsegmentation
house.py                 checks of imports between rooms, of libraries and of docstrings
hub_server.py            a Hugging Face Hub on loopback, over real HTTP, that fails on demand
http_messages.py         HTTP/1.1 messages read whole from a stream
low_memory.py            a replica's refusal when its memory is short
outputs.py               rows, files, differences and stray files of an output
power_cuts.py            processes that end, and disks that lose power, before any one change
published_masks.py       outputs whose class ids are known, published as a run publishes them
rasters.py               rasters of any kind, and their scenes
raster_oracle.py         pixels and validity by rasterio and Pillow
ray_node.py              a Ray node with a dashboard and a token, as `ray start` makes it
reference_network.py     SegFormer as published, unfused: what the folded network must equal
s3_server.py             a real S3 server on loopback: Ceph's gateway, or moto
saved_checkpoints.py     checkpoints as torch.save writes them, read or refused
strips.py                a second Source, as small as possible
triton_interpreter.py    Triton kernels tested in a process of their own
unfinished_outputs.py    outputs of jobs whose cluster has died, of any size
worker_deaths.py         what can happen to a worker process: crashes, hangs, lack of memory
"""
