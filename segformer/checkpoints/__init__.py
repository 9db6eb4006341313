"""Checkpoint files of four origins as named weights, without trusting them.

Reads the SegFormers of transformers, of NVlabs, of segmentation_models_pytorch (smp) and of
mmsegmentation, and writes those of transformers. Knows files, names and shapes of weights; knows no
network, no pixel and no job.

checkpoint.py     Checkpoint; read_checkpoint, write_checkpoint, checkpoint_sha256
files.py          which files make a checkpoint (a folder, or one file), as bytes; their digest
folder.py         one folder's files as bytes, on any file system that fsspec knows
variants.py       raw and averaged weights; adapters and quantized ones, refused by their names
weight_file.py    one file of weights: its names first, its tensors when asked
torch_files.py    files of torch.save, zip and legacy, without torch's unpickler
stored_tensor.py  a tensor of torch.save before it is read: a claim on the file's bytes
pickles.py        pickles read without running their code
smp.py            which of smp's models are SegFormers, by their names and by what files state
transforms.py     the normalization in the file of albumentations' transforms beside smp's models
layouts.py        the names that each origin gives the weights, as tables
shapes.py         the shapes of the weights of a network of given sizes
networks.py       the complete networks among the names of a checkpoint, and which one is taken
leftovers.py      what else a checkpoint holds, left out and noted
choice.py         the network that a checkpoint is taken for: all of the above
state_dict.py     the tensors of that network under our names
sizes.py          the sizes of a network inferred from the shapes of its weights
hub/              models of the Hugging Face Hub by name, and what their cards say
"""
