"""Stores: folders and files on local disk, in object stores and on web servers.

Reads and writes bytes reliably (whole files, retries, locks); does not know what is in them.

access.py        Access, --storage-options: file systems, endpoints, credential checks
store.py         Store: the interface of a folder whose files appear whole or not at all
local_store.py   LocalStore: a folder on local disk, with fsync, rename and flock
folders.py       folders that survive a power cut, and what is said of refused ones
create_only.py   a file that appears only if there is none: by a hard link, or without
file_lock.py     a lock on local disk: the kernel's (flock)
object_store.py  ObjectStore: a folder in S3 and its like, with PUT and multipart uploads
schemes.py       open_store: the Store for a path or URL
local_tree.py    files_below: local files, links followed; links that lead nowhere
range_file.py    StoredFile, RangeFile: one file read in ranges, with read-ahead and a cache
retry.py         call_store: calls retried while they fail transiently, and the count of retries
errors.py        storage_errors: errors of stores translated into ours, with a remedy
lock_holder.py   LockHolder: the process that holds a lock, its record, and whether it is dead
lease.py         hold_lease: a lock kept by a heartbeat, in object stores and where flock is missing
"""
