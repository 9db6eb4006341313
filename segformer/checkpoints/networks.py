"""The complete networks among the names of a checkpoint, and which of them is taken.

A training program keeps more than one: an average of the weights (EMA), a teacher, the same network
under two names. Knows names and layouts; knows no tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segformer.checkpoints import smp
from segformer.checkpoints.layouts import BACKBONE, LAYOUTS, Layout
from segformer.checkpoints.variants import EMA, RAW, WEIGHTS
from segformer.errors import CheckpointError

_LACKS = {
    RAW: "holds averages of the weights (EMA) and no raw ones; omit --weights raw, or give ema",
    EMA: "holds no average of the weights (EMA) that is a complete network; omit --weights ema, or"
    " give raw",
}
_NAMES_SHOWN = 3
"""Keys that a message lists."""
_AVERAGE = re.compile(
    r"(?<![A-Za-z])(?i:ema|swa|avg|averaged?|shadow)(?![a-z])|(?<=[a-z])(EMA|SWA)(?![a-z])"
)
_ONLINE = re.compile(r"(?<![a-z])online(?![a-z])", re.IGNORECASE)
"""What ema_pytorch calls the raw network inside its `ema`."""
_TEACHER = re.compile(r"(?<![a-z])teacher(?![a-z])", re.IGNORECASE)
_STUDENT = re.compile(r"(?<![a-z])student(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Network:
    """The names of one complete SegFormer, encoder and head, in a checkpoint."""

    layout: Layout
    """How the network names its weights."""
    prefix: str
    """What precedes every name: `module.` after DataParallel, `model.` in Lightning."""
    names: tuple[str, ...]
    """All names that start so and are in a part of the network, in the file's order."""
    is_average: bool
    """Whether the weights are averages (EMA) of those of another network."""
    is_beside: bool
    """Whether the network is in another state dict than the file's main one."""

    @property
    def place(self) -> str:
        """The place as messages name it."""
        return f"under {self.prefix}" if self.prefix else "without a prefix"


def find_networks(
    names: Iterable[str],
    beside: Iterable[str] = (),
    *,
    keeps_average: bool = False,
    hyper_parameters: Mapping[Any, Any] | None = None,
) -> list[Network]:
    """The complete networks among these names, those of the shortest prefixes first.

    names: those of the state dict; beside: those of other state dicts in the file. keeps_average:
    the state dict holds averages, and the raw network is beside it. hyper_parameters: what the file
    says of the network. Raises CheckpointError if there is none.
    """
    names, beside = list(names), list(beside)
    candidates = [
        candidate
        for is_beside, part in ((False, names), (True, beside))
        for layout in LAYOUTS
        for candidate in _candidates(layout, part, is_beside, keeps_average)
    ]
    if networks := [candidate for candidate in candidates if _is_whole(candidate)]:
        return _in_order(networks)
    if reason := smp.refusal((*names, *beside), hyper_parameters or {}):
        raise CheckpointError(reason)
    if networks := [candidate for candidate in candidates if _has_head(candidate)]:
        return _in_order(networks)  # whoever reads one says what is missing
    if candidates:
        raise CheckpointError(
            "holds the encoder alone, as it is pretrained on ImageNet, and no decode head;"
            " give a checkpoint that was trained for segmentation"
        )
    raise CheckpointError(
        f"is no SegFormer: it holds {listed(names or beside)}; Swath reads those of transformers,"
        " NVlabs, segmentation_models_pytorch and mmsegmentation"
        if names or beside
        else "holds no tensor; give a SegFormer's state dict"
    )


def choose_network(networks: Sequence[Network], weights: str | None = None) -> Network:
    """The network to run: in the main state dict rather than beside it, raw rather than averaged,
    and no teacher beside a network that is trained.

    weights: RAW or EMA takes only such ones, wherever they are; another value is a ValueError.
    Raises CheckpointError if there is none; if several are left, or a student and its teacher:
    which of these two is meant, only their owner knows.
    """
    if weights not in (None, *WEIGHTS):
        raise ValueError(f"weights {weights!r}: choose one of {', '.join(WEIGHTS)}")
    left = list(networks)
    if weights is not None:
        left = [n for n in left if n.is_average == (weights == EMA)]
        if not left:
            raise CheckpointError(_LACKS[weights])
    left = [n for n in left if not n.is_beside] or left
    left = [n for n in left if not n.is_average] or left
    if not any(_STUDENT.search(n.prefix) for n in left):
        left = [n for n in left if not _TEACHER.search(n.prefix)] or left
    if len(left) > 1:
        places = " and ".join(network.prefix or "no prefix" for network in left)
        raise CheckpointError(
            f"holds {len(left)} complete networks, under {places}, and does not say which one to"
            " run; save the state_dict() of that one alone"
        )
    return left[0]


def _in_order(networks: Iterable[Network]) -> list[Network]:
    return sorted(networks, key=lambda n: (n.is_beside, n.prefix.count("."), len(n.prefix)))


def _candidates(
    layout: Layout, names: list[str], is_beside: bool, keeps_average: bool
) -> Iterator[Network]:
    """Whatever has the layout's first weight."""
    for prefix in _prefixes(layout, names):
        own = tuple(n for n in names if n.startswith(prefix) and layout.has_part(n[len(prefix) :]))
        is_average = bool(_AVERAGE.search(prefix)) and not _ONLINE.search(prefix)
        if keeps_average:
            is_average = not is_beside
        yield Network(layout, prefix, own, is_average, is_beside)


def _is_whole(network: Network) -> bool:
    return _our_names(network).issuperset(network.layout.marks)


def _has_head(network: Network) -> bool:
    return any(name.startswith("head.") for name in _our_names(network))


def _our_names(network: Network) -> set[str]:
    originals = (name[len(network.prefix) :] for name in network.names)
    return {name for n in originals for name in network.layout.our_names(n) or ()}


def _prefixes(layout: Layout, names: Iterable[str]) -> list[str]:
    """What precedes the layout's first weight wherever it is among the names, without the encoder's
    own `backbone.`."""
    prefixes = (n.removesuffix(layout.anchor) for n in names if n.endswith(layout.anchor))
    whole = (prefix for prefix in prefixes if not prefix or prefix.endswith("."))
    inner = BACKBONE if BACKBONE in layout.prefixes else ""
    return list(dict.fromkeys(prefix.removesuffix(inner) for prefix in whole))


def listed(names: Iterable[str]) -> str:
    """The number of names and the first of them, for a message."""
    names = list(names)
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)} key{'s' if len(names) > 1 else ''} {shown}{more}"
