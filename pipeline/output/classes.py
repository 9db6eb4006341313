"""The table `classes`: names and colors of a job's classes. Knows no other file of an output."""

from __future__ import annotations

import io

from pipeline.job import Job
from pipeline.output.parquet import write_table
from pipeline.output.schemas import CLASSES
from pipeline.output.tables import table_of


def classes_file(job: Job) -> bytes:
    """The table, as a Parquet file."""
    rows = [
        {"class_id": k, "name": name, "color": color}
        for k, (name, color) in enumerate(zip(job.class_names, job.class_colors, strict=True))
    ]
    file = io.BytesIO()
    write_table(file, table_of(rows, CLASSES))
    return file.getvalue()
