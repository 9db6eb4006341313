"""What a cluster needs beside the job: files that start one, and who drains nodes that will end."""
