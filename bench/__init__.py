"""Measurements of Swath: its speed, and whether it keeps its promises.

Each program answers one question, the first line of its docstring, and prints one JSON document as
its last line. README.md lists them with their results. Nothing imports bench but tests.

    speed/     is it fast, and beside what?
    promises/  are the rows the same, is memory bounded, is nothing lost?
    support/   what the programs share; no program of its own
    results/   what was measured: subject_hardware_month.json
"""
