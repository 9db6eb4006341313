"""Checkpoint files of three origins as named weights, without trusting them.

Reads the SegFormers of transformers, of NVlabs and of mmsegmentation, and writes those of
transformers. Knows files, names and shapes of weights; knows no network, no pixel and no job.

checkpoint.py   Checkpoint; read_checkpoint, write_checkpoint, checkpoint_sha256
files.py        which files make a checkpoint (a folder, or one file), as bytes; their digest
folder.py       one folder's files as bytes, on any file system that fsspec knows
torch_files.py  files of torch.save, zip and legacy, without torch's unpickler
pickles.py      pickles read without running their code
layouts.py      the names that each origin gives the weights, as tables
shapes.py       the shapes of the weights of a network of given sizes
state_dict.py   whose file it is (`recognize_layout`), and its tensors under our names
sizes.py        the sizes of a network inferred from the shapes of its weights
"""
