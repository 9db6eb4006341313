"""What several programs of bench share.

rounds.py         sides that take turns, spreads and ratios, the machine
contestants.py    sliding windows: ours and those of others
networks.py       forward passes: ours and those of others
processes.py      the processes of a run and their peak memory
idle_stages.py    stages that do next to nothing or say where they run
timed_stages.py   stages with a clock
logged_stages.py  stages that log each unit
comparison.py     an image file as Swath reads it beside rasterio, Pillow and pyproj
"""
