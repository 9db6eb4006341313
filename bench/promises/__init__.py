"""Programs that check what README.md promises, each run as `python -m bench.promises.NAME`.

same_rows.py  the same rows with every division of work
kills.py      the same rows after kill -9 at random moments
campaign.py   the same rows after each of 208 faults on an S3 server
corpus.py     every readable raster read as rasterio reads it
mutations.py  every damaged input done, partial or quarantined
nodes.py      the same rows after losing a node of a cluster
placing.py    stages on the nodes that have what they request
memory.py     every process below its predicted memory
estimate.py   time and memory as `swath plan --calibrate` estimates them
"""
