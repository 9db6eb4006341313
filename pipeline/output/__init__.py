"""An OUT: its folder, its records and its tables, written by runs and read by everyone.

Knows rows, files and SQL, with pyarrow and duckdb; knows neither images nor the network nor who
computes what.

The folder and its records:
    layout.py       Output: what is where in an OUT, and how records are read and written
    records.py      records as JSON, and what is said of damaged ones
    locks.py        hold_share: one driver at a time, or several that share an output
    shard.py        Shard, Head: a part of the plan, published and committed at once
    commit.py       Commit: the record that makes a shard count as published
    resume.py       OutputRecord: the state of an output when a run starts
    outcomes.py     what became of units and inputs; damaged unit files
    replacement.py  retried inputs: which shard's rows count, old rows deleted
    status.py       status: what an output's own records say

The tables:
    schemas.py      the columns of each table, with their descriptions
    column.py       descriptions as Arrow field metadata, written and read
    tables.py       rows and columns to Arrow tables
    parquet.py      Arrow tables to Parquet files: row groups, compression, GeoParquet
    classes.py      the table classes

From class ids to tables:
    class_sums.py   pixels and square meters of each class of a mask tile, by numpy
    class_sums_compiled.py   the same as a compiled loop
    mask_rows.py    class ids of a block to rows, one per mask tile
    unit_file.py    a unit's rows and outcome as one file
    publishing.py   publish: a shard's unit files to its tables, then its commit
    tiles.py        a shard's mask tiles, read, put in order, written to masks
    spool.py        masks on local disk until their turn comes
    hilbert.py      the order of tiles in a table
    scene_rows.py   a scene's rows of scenes and statistics
    scene_tables.py the tables scenes and statistics of a shard

Back from the tables:
    query.py        query, open_output: SQL
    masks.py        SceneMask: any window of a scene's class ids
    mask_table.py   the table masks of a shard, read by row groups
"""
