"""TF-SepNet without channel shuffles, as it is served: equal logits, from weights whose channels are kept in
another order.

A shuffle moves every channel in memory and computes nothing. Which half of a later split a channel goes to is
known in advance, though: if those that go together lie side by side, a shuffle and a split are a few slices.
"""

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn

from adaptf.models.students.tfsepnet.network import ConvNormRelu, TfSepBlock, TfSepNet, separate_convolutions

_Order = list[int]
"""Place i holds the channel that the shuffling network has at place order[i]."""


def unshuffled(network: TfSepNet, stem_order: _Order | None = None) -> TfSepNet:
    """A copy with the same logits, up to the order in which sums are added up, and the same numbers of
    parameters.

    With `stem_order` its body takes what comes out of the stem in that order; the stem itself is left as it
    is.
    """
    copy = deepcopy(network)
    order = list(range(2 * network.width)) if stem_order is None else stem_order
    parts = list(copy.body)
    for place, part in enumerate(parts):
        if isinstance(part, TfSepBlock):
            served = UnshuffledBlock(part, order, following=_blocks_without_transition(parts[place + 1 :]))
            copy.body[place], order = served, served.order
    copy.classifier.weight.data = copy.classifier.weight.data[:, order]
    return copy


def _blocks_without_transition(parts: Sequence[nn.Module]) -> int:
    """How many blocks come before the next one with a convolution over all channels, for any order."""
    count = 0
    for part in parts:
        if isinstance(part, TfSepBlock):
            if not isinstance(part.transition, nn.Identity):
                break
            count += 1
    return count


class UnshuffledBlock(nn.Module):
    """(batch, in_channels, ...), in `in_order` -> (batch, out_channels, ...), in `order`."""

    def __init__(self, block: TfSepBlock, in_order: _Order, *, following: int) -> None:
        super().__init__()
        half = block.frequency_depthwise.conv.out_channels
        has_transition = isinstance(block.transition, ConvNormRelu)
        place_of = {channel: place for place, channel in enumerate(in_order)}

        def place(channel: int) -> int:
            """Where the block finds a channel of the shuffled ones."""
            source = _unshuffled_channel(channel, half)
            return source if has_transition else place_of[source]

        def sorted_by_way(channels: range) -> _Order:
            return sorted(channels, key=lambda channel: (way(channel, half, following), place(channel)))

        over_frequency, over_time = sorted_by_way(range(half)), sorted_by_way(range(half, 2 * half))
        self.order = over_frequency + over_time
        self.transition: nn.Module = block.transition
        self.dropout = block.dropout
        places = [place(channel) for channel in self.order]
        if isinstance(block.transition, ConvNormRelu):
            self.transition = reordered(block.transition, rows=places, columns=in_order)
            places = list(range(2 * half))
        self.slices = runs_of(places[:half]), runs_of(places[half:])
        within = [channel - half for channel in over_time]
        self.frequency_depthwise = reordered(block.frequency_depthwise, rows=over_frequency)
        self.frequency_pointwise = reordered(
            block.frequency_pointwise, rows=over_frequency, columns=over_frequency
        )
        self.time_depthwise = reordered(block.time_depthwise, rows=within)
        self.time_pointwise = reordered(block.time_pointwise, rows=within, columns=within)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transition(x)
        over_frequency, over_time = (
            torch.cat([x[:, piece] for piece in slices], dim=1) for slices in self.slices
        )
        return separate_convolutions(self, over_frequency, over_time)


def _unshuffled_channel(channel: int, half: int) -> int:
    """The channel that a shuffle of 2 x half channels puts at this place: both halves take turns."""
    return channel // 2 + half * (channel % 2)


def way(channel: int, half: int, blocks: int) -> tuple[bool, ...]:
    """For each of the blocks that follow, whether it takes the channel over time."""
    halves = []
    for _ in range(blocks):
        channel = 2 * channel if channel < half else 2 * (channel - half) + 1
        halves.append(channel >= half)
    return tuple(halves)


def runs_of(places: Sequence[int]) -> list[slice]:
    """Consecutive places as slices: [4, 5, 6, 0, 1] -> [4:7, 0:2]."""
    starts = [0, *(i + 1 for i, (one, next_one) in enumerate(pairwise(places)) if next_one != one + 1)]
    return [slice(places[start], places[end - 1] + 1) for start, end in pairwise([*starts, len(places)])]


def reordered(block: ConvNormRelu, *, rows: _Order, columns: _Order | None = None) -> ConvNormRelu:
    """The convolution and its normalization, outputs in the order `rows`, inputs in that of `columns`."""
    copy = deepcopy(block)
    weight = copy.conv.weight.data[rows]
    copy.conv.weight.data = weight if columns is None else weight[:, columns]
    for tensor in (*copy.norm.parameters(), *copy.norm.buffers()):
        tensor.data = (
            tensor.data[rows] if tensor.ndim else tensor.data
        )  # the number of batches is one for all
    return copy
