"""What a checkpoint holds beside the network: what may be left out, and the notes that say so.

Class weights of a criterion, metrics, an average of the weights, a teacher, a discriminator. Knows
names, types and shapes; knows no values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from segformer.checkpoints.networks import Network
from segformer.checkpoints.stored_tensor import StoredTensor

_GROUPS_SHOWN = 5
"""Groups of keys that a note lists."""
_TRAINING = re.compile(
    r"(?<![a-z])(criterion|loss(es|_?fns?)?|metrics?|conf_?mat|ious?|jaccard|accuracy|f1|ema|swa"
    r"|averaged?|aux(iliary)?|classification_head|teacher|student|optim(izers?)?|schedulers?|lr"
    r"|class_weights?|discriminators?|lpips|n_averaged|num_updates|decay|initted|step)(?![a-z])",
    re.IGNORECASE,
)
"""Words in the names of what only training needs."""
_LAYER_LEAVES = ("bias", "running_mean", "running_var")
_INPUT_STATISTICS = re.compile(r"(^|[._])(?<!running_)(mean|std)$")
"""The end of the names of numbers by which a network normalizes its input itself."""


@dataclass(frozen=True)
class Contents:
    """The names of a state dict, divided."""

    own: tuple[str, ...]
    """Those of the network; and those that it might compute with and that are not known: these
    make the file another kind of network."""
    left_out: dict[str, list[str]]
    """The others, by group: the first part of the name that is not the network's."""
    layers: tuple[str, ...]
    """The groups left out that hold layers, unless their names tell that only training needs
    them."""


def divide(
    network: Network, networks: Sequence[Network], tensors: Mapping[str, Tensor | StoredTensor]
) -> Contents:
    """The names of a state dict as those of the network to run, and what may be left out.

    Beside the network itself (`criterion.weight` beside `segformer...`) layers are left out only if
    their names tell what they are for. Outside of it (`criterion.weight` beside `model.segformer`)
    everything is left out.
    """
    others = {name for other in networks if other is not network for name in other.names}
    groups: dict[str, list[str]] = {}
    own = []
    for name in tensors:
        if name in others:
            continue
        if _is_own(network, name):
            own.append(name)
        else:
            groups.setdefault(_group(network, name), []).append(name)
    layers = [
        group
        for group, names in groups.items()
        if any(_is_layer(name, tensors[name]) for name in names)
    ]
    for group in layers:
        if group.startswith(network.prefix):
            own += groups.pop(group)
    return Contents(tuple(own), groups, tuple(group for group in layers if group in groups))


def notes_of(network: Network, networks: Sequence[Network], contents: Contents) -> tuple[str, ...]:
    """The notes on what a checkpoint holds beside the network that is run."""
    others = [other for other in networks if other is not network]
    notes = [_note_on(other, network) for other in others]
    if network.is_average and all(other.is_average for other in others):
        notes.append(f"the weights are averages (EMA): the file has these alone, {network.place}")
    return (*notes, *_notes_on_left_out(contents))


def _note_on(other: Network, network: Network) -> str:
    keys = f"{len(other.names):,} keys"
    if network.is_average and not other.is_average:
        return (
            f"the weights are averages (EMA), those {network.place}; the raw ones {other.place}"
            f" ({keys}) are not used: --weights raw takes them"
        )
    if other.is_average and not network.is_average:
        return (
            f"the file also holds an average of the weights (EMA) {other.place} ({keys}); the raw"
            f" ones {network.place} are used: --weights ema takes the average"
        )
    return (
        f"the file also holds a complete network {other.place} ({keys}); the one {network.place} is"
        " used"
    )


def _notes_on_left_out(contents: Contents) -> Iterable[str]:
    groups = contents.left_out
    if not groups:
        return
    count = sum(map(len, groups.values()))
    shown = [
        names[0] if len(names) == 1 else f"{group} ({len(names):,} keys)"
        for group, names in groups.items()
    ]
    more = f" and {len(shown) - _GROUPS_SHOWN} more groups" if len(shown) > _GROUPS_SHOWN else ""
    yield (
        f"{count:,} key{'s are' if count > 1 else ' is'} not the network's and not used:"
        f" {', '.join(shown[:_GROUPS_SHOWN])}{more}"
    )
    if contents.layers:
        layers = ", ".join(contents.layers[:_GROUPS_SHOWN])
        yield (
            f"layers beside the network ({layers}): if pixels or logits passed through them in"
            " training, the masks are wrong"
        )
    statistics = [n for names in groups.values() for n in names if _INPUT_STATISTICS.search(n)]
    if statistics:
        yield (
            f"the file has numbers for normalizing of its own ({', '.join(statistics[:3])}): check"
            " that they agree with the normalization that is used"
        )


def _is_own(network: Network, name: str) -> bool:
    """Whether a name is of the network, or in a part of it and of no known use."""
    if not name.startswith(network.prefix):
        return False
    rest = name[len(network.prefix) :]
    if network.layout.our_names(rest) is not None:
        return True
    return network.layout.has_part(rest) and not _TRAINING.search(rest)


def _group(network: Network, name: str) -> str:
    """The name up to the first part that is not the network's."""
    parts, other = name.split("."), network.prefix.split(".")
    same = 0
    while same < min(len(parts), len(other)) - 1 and parts[same] == other[same]:
        same += 1
    if name.startswith(network.prefix) and network.layout.has_part(name[len(network.prefix) :]):
        same = next(k for k in range(same, len(parts)) if _TRAINING.search(parts[k]))
    return ".".join(parts[: same + 1])


def _is_layer(name: str, tensor: Tensor | StoredTensor) -> bool:
    """Whether a tensor may be a layer's (a matrix, a kernel, a bias, statistics of a norm) and its
    name does not tell that only training needs it."""
    if not tensor.dtype.is_floating_point or _TRAINING.search(name):
        return False
    if name.rpartition(".")[2] in _LAYER_LEAVES:
        return True
    return len(tensor.shape) > 1 and not _INPUT_STATISTICS.search(name)
