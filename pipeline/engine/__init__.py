"""Computes class ids from pixels: cuts windows, runs the network, blends overlapping logits.

Knows one loaded model and the blocks of a unit; knows neither files, tables nor Ray.

replica.py                  a loaded model: a unit that was read to a unit that is segmented
open_block.py               a block under way: its windows, and what becomes of their logits
forward.py                  batches of windows through the network, as one CUDA graph on a GPU
window_cutter.py            windows cut from blocks and normalized: the interface, and on the CPU
window_cutter_cuda.py       the same on a GPU, to which pixels are sent in strips
window_cutter_triton.py     its kernel
stitcher.py                 which windows cover what, and which are still needed
bilinear.py                 how the pixels sample the low-resolution logits of windows
blend.py                    what every blend is given and gives
blend_plain.py              the blend in torch's operations: the oracle of the others
blend_cpu.py                the blend as compiled loops, in chunks of columns
blend_cpu_tables.py         the tables from which its loops work, and the legend to them
blend_loops.py              its loops, for numba
blend_cuda.py               the blend on a GPU
blend_cuda_tables.py        the tables from which its kernels work, and the legend to them
blend_triton.py             its kernels
confidence.py               the softmax at the winning class, sampled, with the same bits everywhere
device.py                   the devices of this machine; a GPU's memory and load
transfers.py                copies to and from a GPU through pinned memory
"""
