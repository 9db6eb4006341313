"""The network that a checkpoint is taken for, and the notes on what else its files hold.

Knows the files' names; reads tensors only to tell whether two networks are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segformer.checkpoints.leftovers import divide, notes_of
from segformer.checkpoints.networks import Network, choose_network, find_networks
from segformer.checkpoints.variants import check_names
from segformer.checkpoints.weight_file import Metadata, WeightFile

Read = Callable[[Collection[str]], dict[str, Tensor]]
"""Returns the tensors of these names in all files of a checkpoint."""


@dataclass(frozen=True)
class Choice:
    """The network to run."""

    network: Network
    names: tuple[str, ...]
    """Its tensors in the files; what it may compute with and we do not know is among them."""
    metadata: Metadata
    """What the files say about themselves."""
    hyper_parameters: Metadata
    """What Lightning keeps of the arguments that the network was built with."""
    notes: tuple[str, ...]
    """What else they hold, one line each."""


def choose(files: Sequence[WeightFile], read: Read, weights: str | None = None) -> Choice:
    """The network in the files of a checkpoint. weights: as `choose_network` takes it.

    Raises CheckpointError if there is no complete SegFormer, or more than one and no telling which;
    for adapters and quantized weights; and what `read` raises.
    """
    tensors = {name: tensor for file in files for name, tensor in file.tensors.items()}
    beside = {name: tensor for file in files for name, tensor in file.beside.items()}
    check_names(tensors)
    keeps_average = any(file.keeps_average for file in files)
    hyper_parameters = files[-1].hyper_parameters if files else {}
    networks = find_networks(
        tensors, beside, keeps_average=keeps_average, hyper_parameters=hyper_parameters
    )
    network = choose_network(_without_copies(networks, read), weights)
    if network.is_beside:  # what is in the same state dict is judged with it
        key = network.names[0].partition(".")[0]
        tensors |= {n: t for n, t in beside.items() if n.startswith(f"{key}.")}
        check_names(tensors)
    contents = divide(network, networks, tensors)
    metadata = files[-1].metadata if files else {}
    notes = notes_of(network, networks, contents)
    return Choice(network, contents.own, metadata, hyper_parameters, notes)


def _without_copies(networks: Sequence[Network], read: Read) -> list[Network]:
    """The networks without those that are another one again, under another name."""
    distinct: list[Network] = []
    for network in networks:
        if not any(_is_copy(network, other, read) for other in distinct):
            distinct.append(network)
    return distinct


def _is_copy(network: Network, other: Network, read: Read) -> bool:
    if (network.layout, network.is_average) != (other.layout, other.is_average):
        return False
    first, second = (
        {name[len(n.prefix) :]: tensor for name, tensor in read(set(n.names)).items()}
        for n in (network, other)
    )
    return first.keys() == second.keys() and all(
        torch.equal(tensor, second[name]) for name, tensor in first.items()
    )
