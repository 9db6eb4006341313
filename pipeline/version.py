"""The version of Swath, which job.json records and `swath --version` prints."""

VERSION = "0.2.0.dev0"
