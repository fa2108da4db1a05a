"""S2Former's inference graph in fewer and shorter passes, for the exporter.

The same function as `network.Network`: layers that follow each other without a
nonlinearity between them are multiplied ahead of time.

Axes: tokens last, ``(batch, row, col, [group,] feature)``.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hsi_train.methods.s2former.network import (
    GROUPS,
    HEADS,
    REACH,
    SIDE,
    SPATIAL,
    SPECTRAL,
    Block,
    Network,
    crop,
)


class Folded(nn.Module):
    """Linear layers after one LayerNorm, as products without gain, offset or bias.

    The normalised features are shifted by one, so that they sum to their number and
    never to zero: a matrix whose rows have their means replaced by constants then
    applies weights and constants at once. Nothing is left to add to each pixel.
    """

    ones: Tensor

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.gain, self.offset = norm.weight.double(), norm.bias.double()
        self.register_buffer("ones", torch.ones_like(norm.weight))

    def matrix(self, weight: Tensor, constant: Tensor | float = 0.0) -> Tensor:
        """Fold ``weight @ norm(x) + constant`` into a matrix, in float64.

        Args:
            weight: Shape ``(output, feature)``.
            constant: Shape ``(output,)``.
        """
        scaled = weight.double() * self.gain
        constant = weight.double() @ self.offset + constant
        centred = scaled - scaled.mean(dim=1, keepdim=True)
        return centred + constant[:, None] / len(self.gain)

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise ``(..., feature)`` and shift by one."""
        return F.layer_norm(tokens, [len(self.ones)], bias=self.ones)


def matrix_of(norm: Folded, linear: nn.Module) -> Tensor:
    """Fold a norm and the linear layer after it, shape ``(output, feature)``."""
    assert isinstance(linear, nn.Linear)
    bias = 0.0 if linear.bias is None else linear.bias.double()
    return norm.matrix(linear.weight, bias)


def by_head(matrix: Tensor) -> Tensor:
    """View rows ``(head * feature, ...)`` as ``(head, feature, ...)``."""
    return torch.unflatten(matrix, 0, (HEADS, SPECTRAL))


class FoldedBlock(nn.Module):
    """`Block` for inference, the same function in fewer and shorter passes.

    - A query and a key of spectral tokens meet in one matrix, q k = x (Q' K) x, and a
      value and the output layer in another: two products instead of four.
    - The spatial queries look at the normalised spectral tokens themselves; the key and
      value layers are part of the queries and of the output layer.
    - Neighbours are gathered by index, which copies less than shifted slices.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    keys_e: Tensor
    key_a_for_e: Tensor
    values_e: Tensor
    value_a_for_e: Tensor
    query_a_for_e: Tensor
    query_a: Tensor
    key_a: Tensor
    value_a: Tensor
    from_e: Tensor
    from_a: Tensor
    forward_a: Tensor
    forward_e: Tensor

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        assert isinstance(block, Block)
        look, exchange = block.look, block.exchange
        scale = 1 / math.sqrt(SPECTRAL)
        self.look_norm = norm = Folded(block.look_norm)
        self.exchange_norm_a = norm_a = Folded(block.exchange_norm_a)
        self.exchange_norm_e = norm_e = Folded(block.exchange_norm_e)
        self.forward_norm_a = forward_a = Folded(block.forward_norm_a)
        self.forward_norm_e = forward_e = Folded(block.forward_norm_e)
        query_e = matrix_of(norm_e, exchange.query_e) * scale
        key_e = matrix_of(norm_e, exchange.key_e)
        value_e = matrix_of(norm_e, exchange.value_e)
        query_a = by_head(matrix_of(norm_a, exchange.query_a)) * scale
        key_a = matrix_of(norm_a, exchange.key_a)
        value_a = matrix_of(norm_a, exchange.value_a)
        to_e = exchange.out_e.weight.double()
        # Shares sum to one: a constant of all values is one of the result.
        ones = norm_e.ones.double(), norm_a.ones.double()
        bias_e = [exchange.out_e.bias.double()[:, None] / len(one) for one in ones]
        to_a = exchange.out_a.weight.double()
        to_a_by_head = torch.unflatten(to_a, 1, (HEADS, SPECTRAL))
        matrices = {
            "query": matrix_of(norm, look.query) * scale,
            "key": matrix_of(norm, look.key),
            "value": matrix_of(norm, look.value),
            "keys_e": query_e.T @ key_e,
            "key_a_for_e": query_e.T @ key_a,
            "values_e": to_e @ value_e + bias_e[0],
            "value_a_for_e": to_e @ value_a + bias_e[1],
            "query_a_for_e": (key_e.T @ query_a).flatten(0, 1),
            "query_a": query_a.flatten(0, 1),
            "key_a": key_a,
            "value_a": value_a,
            "from_e": (to_a_by_head @ value_e).flatten(1),
            "from_a": to_a,
            "forward_a": matrix_of(forward_a, block.forward_a[0]),
            "forward_e": matrix_of(forward_e, block.forward_e[0]),
        }
        for name, matrix in matrices.items():
            self.register_buffer(name, matrix.to(look.query.weight).T.contiguous())
        self.position = look.position
        self.look_out = look.out
        self.to_a_bias = exchange.out_a.bias
        self.forward_a_out = block.forward_a[2]
        self.forward_e_out = block.forward_e[2]

    def forward(self, a: Tensor, e: Tensor, around: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens as `Block` does.

        Args:
            a: Spatial tokens.
            e: Spectral tokens.
            around: Index of the neighbours, see `neighbour_index`.
        """
        a = crop(a) + self.look(self.look_norm(a), around)
        to_a, to_e = self.exchange(self.exchange_norm_a(a), self.exchange_norm_e(e))
        a, e = a + to_a, e + to_e
        a = a + self.forward_a_out(F.gelu(self.forward_norm_a(a) @ self.forward_a))
        hidden = F.gelu(self.forward_norm_e(e) @ self.forward_e)
        # With two axes the bias is part of the product.
        e = e + self.forward_e_out(hidden.flatten(0, -2)).view(e.shape)
        return a, e

    def look(self, a: Tensor, around: Tensor) -> Tensor:
        """Attend to the neighbours."""
        query = torch.unflatten(crop(a) @ self.query, -1, (HEADS, SPECTRAL))
        keys, values = (
            torch.index_select((a @ matrix).flatten(1, 2), 1, around).view(
                *query.shape[:3], SIDE * SIDE, SPECTRAL
            )
            for matrix in (self.key, self.value)
        )
        logits = query @ keys.transpose(-1, -2) + self.position
        mixed = torch.softmax(logits, dim=-1) @ values
        out: Tensor = self.look_out(mixed.flatten(-2))
        return out

    def exchange(self, a: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        """Attend to the pixel's own tokens, of both branches."""
        keys = torch.cat([e @ self.keys_e, (a @ self.key_a_for_e)[..., None, :]], -2)
        values = torch.cat(
            [e @ self.values_e, (a @ self.value_a_for_e)[..., None, :]], -2
        )
        to_e = torch.softmax(e @ keys.transpose(-1, -2), dim=-1) @ values

        heads = (HEADS, SPECTRAL)
        to_spectral = torch.unflatten(a @ self.query_a_for_e, -1, heads)
        to_spatial = torch.unflatten(a @ self.query_a, -1, heads)
        own = (to_spatial * (a @ self.key_a)[..., None, :]).sum(-1, keepdim=True)
        logits = torch.cat([to_spectral @ e.transpose(-1, -2), own], dim=-1)
        shares = torch.softmax(logits, dim=-1)  # (batch, row, col, head, 17)
        spectral = shares[..., :GROUPS] @ e  # (batch, row, col, head, 32)
        spatial = shares[..., GROUPS:] * (a @ self.value_a)[..., None, :]
        to_a = spectral.flatten(-2) @ self.from_e + spatial.flatten(-2) @ self.from_a
        return to_a + self.to_a_bias, to_e


def neighbour_index(rows: int, cols: int) -> Tensor:
    """Index the 5x5 neighbours of all inner pixels of a window, row by row.

    Args:
        rows: Rows of the window.
        cols: Columns of the window.

    Returns:
        Shape ``((rows - 4) * (cols - 4) * 25,)``.
    """
    side = torch.arange(SIDE)
    offsets = side[:, None] * cols + side  # (5, 5)
    top, left = torch.arange(rows - 2 * REACH), torch.arange(cols - 2 * REACH)
    corners = top[:, None] * cols + left  # (row, col)
    return (corners[..., None] + offsets.flatten()).flatten()


class FoldedNetwork(nn.Module):
    """The exported form of `Network`, constants folded."""

    from_a: Tensor
    from_e: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        encoder, head = network.encoder, network.head
        self.adapter = network.adapter
        self.embed_a = encoder.embed_a
        self.embed_e = encoder.embed_e.weight
        self.start_e = nn.Parameter(encoder.embed_e.bias + encoder.group)
        self.blocks = nn.ModuleList(FoldedBlock(block) for block in encoder.blocks)
        self.norm_a = norm_a = Folded(encoder.norm_a)
        self.norm_e = norm_e = Folded(encoder.norm_e)
        weight = head.linear.weight.double() * head.gain
        bias = head.linear.bias.double() - weight @ head.mean.double()
        spatial, spectral = weight[:, :SPATIAL], weight[:, SPATIAL:]
        from_e = norm_e.matrix(spectral.reshape(-1, SPECTRAL)).view(spectral.shape)
        for name, matrix in (
            ("from_a", norm_a.matrix(spatial, bias)),
            ("from_e", from_e),
        ):
            self.register_buffer(name, matrix.to(head.linear.weight).T.contiguous())

    def forward(self, cube: Tensor) -> Tensor:
        """Map ``(batch, band, row, col)`` in stored units to class scores."""
        spectra = self.adapter(cube).permute(0, 2, 3, 1)  # (batch, row, col, 128)
        a = self.embed_a(spectra)
        groups = torch.unflatten(crop(spectra), -1, (GROUPS, -1))
        e = groups @ self.embed_e.T + self.start_e
        for number, block in enumerate(self.blocks):
            if number:
                e = crop(e)
            a, e = block(a, e, neighbour_index(a.shape[1], a.shape[2]).to(a.device))
        scores = self.norm_a(a) @ self.from_a
        scores = scores + self.norm_e(e).flatten(-2) @ self.from_e
        by_class: Tensor = scores.permute(0, 3, 1, 2)
        return by_class
