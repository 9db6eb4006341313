"""The command line: each command parses its arguments, calls one function of `pipeline`, and
prints.

Knows how results are printed and how a job is sent to a cluster. Does not know how anything is
computed.

    cli.py                the console script `swath`, its exit codes, Ctrl-C
    plan.py               `swath plan`
    run.py                `swath run` and its receipt
    status.py             `swath status`
    query.py              `swath query`: rows as a table, CSV, JSON or Parquet
    model.py              `swath model inspect` and `convert`
    model_report.py       what `swath model inspect` says
    submit.py             `swath submit`: a run as a job on a cluster
    jobs.py               `swath jobs`: the list of jobs on a cluster
    logs.py               `swath logs`: the output of a job on a cluster
    stop.py               `swath stop`
    options.py            the options that commands share, and those that decide the rows
    execution_options.py  the options of a run that do not decide the rows
    trial_options.py      the options that make `plan` compute something
    cluster_options.py    the options of the commands that ask a cluster
    option_decorator.py   click options made from fields of Settings and Execution
    option_types.py       types of option values: bands, numbers, replicas, shares
    job_file_option.py    `--job FILE`, and the line of the file in error messages
    progress.py           the live line of progress
    text.py               numbers and values formatted for people and for JSON
    on_cluster.py         the program of a job on a cluster
    cluster_job.py        a job on a cluster, as Ray and its metadata describe it
    dashboard.py          Ray's jobs through its dashboard
    package.py            Swath as a zip that a cluster unpacks
    reference.py          generates docs/cli.md
    tables_reference.py   generates docs/tables.md
"""
