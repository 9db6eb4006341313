"""What a cluster needs beside the job: files that start one, and who drains a node that will end."""
