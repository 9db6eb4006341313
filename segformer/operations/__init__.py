"""What lies between the network's matrix products, on each kind of device.

Each operation is written three times: in torch's own words (`plain`), which say what it is and
serve every device and type; as compiled loops for CPUs (`cpu`); and as Triton kernels for GPUs
(`cuda`). The latter two pass over memory once where torch does several times. Knows layers and
tensors; knows no network, no checkpoint and no pixel. protocol <- plain <- cpu | cuda <- choice.

protocol.py              Operations, the contract; Decoder, the layers of a head; Mixer, Activation
maps.py                  tokens as feature maps and back, without a copy
gelu.py                  the polynomial that stands in for GELU's error function
plain.py                 the operations as torch computes them
pointers.py              numba intrinsics: float32, bfloat16 and int64 values at an address
torch_threads.py         ParallelLoop: a compiled loop on torch's own OpenMP threads
cpu_loops.py             the loops for CPUs: depthwise convolution with GELU, norms, upsampling
cpu.py                   the operations on a CPU, in float32 and bfloat16
cuda_kernels.py          Triton kernels: depthwise convolution with GELU, norms
cuda_decoder_kernels.py  Triton kernels of the head
cuda.py                  the operations on a GPU, in float32, bfloat16 and float16
choice.py                which of these a tensor gets, by its device and type
"""
