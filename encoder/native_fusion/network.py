"""The network: an image trunk, a projection, and a text encoder that reads the patches between its start and its text.

What a patch is to the text encoder is VISTA's (Visualized-BGE, arXiv 2406.04292): the projected token of the trunk plus
a row of the text encoder's own position table, normalised by its own LayerNorm, without a token type. The vector is the
state of the start token, scaled to unit norm.

Shape legend: I = images, R = rows (vectors), C, H, W = image, N = patches of an image, T = tokens of a text,
L = N + T, F = width of the trunk, D = width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_HIDDEN = -65504.0  # added to the score of what is not there; float16 has it
_POSITIONS_FROM_PAD = ("roberta", "xlm-roberta", "camembert")  # where a text's first position is behind the padding's
TEXT_MODELS = ("bert", *_POSITIONS_FROM_PAD)


class Rows(NamedTuple):
    """What vectors are made of.

    Attributes:
        tokens_RT: Token ids of texts; a row of an image alone has a start and an end.
        length_R: Tokens of each row; what is behind them counts nothing.
        image_R: Image of each row, or -1.
    """

    tokens_RT: Tensor
    length_R: Tensor
    image_R: Tensor


def first_position(model_type: str, padding: int | None) -> int:
    """Row of the position table that the start of a text alone has.

    >>> first_position("bert", 0), first_position("xlm-roberta", 1)
    (0, 2)
    """
    return int(padding or 0) + 1 if model_type in _POSITIONS_FROM_PAD else 0


class FusionNetwork(nn.Module):
    """Rows of text, image, or both to unit vectors; the trunk runs once over each image, whatever rows read it.

    Attributes:
        text: A BERT-like encoder of transformers, without its pooler.
        trunk: Pixels `[I, C, H, W]` to tokens `[I, N, F]`.
        projection: From the trunk's width to the text encoder's.
        log_scale: Logarithm of the inverse temperature that it is trained with; of no effect on vectors.
        num_patches: N.
    """

    def __init__(self, text: Any, trunk: Any, trunk_width: int, num_patches: int) -> None:
        """Joins them; the projection is new.

        Raises:
            ValueError: the text encoder has no positions for a text beside the patches.
        """
        super().__init__()
        self.text = text
        self.trunk = trunk
        self.projection = nn.Linear(trunk_width, text.config.hidden_size)
        self.log_scale = nn.Parameter(torch.tensor(0.0))
        self.num_patches = num_patches
        self._first_position = first_position(text.config.model_type, text.config.pad_token_id)
        if self.max_text_beside_image < 3:
            raise ValueError(
                f"the text encoder has {self._num_positions} positions, too few for {num_patches} patches and a text"
            )

    @property
    def width(self) -> int:
        """D."""
        return int(self.text.config.hidden_size)

    @property
    def max_text(self) -> int:
        """The most tokens of a text alone, start and end included."""
        return self._num_positions - self._first_position

    @property
    def max_text_beside_image(self) -> int:
        """The most tokens of a text that an image stands before, start and end included."""
        return self._num_positions - self.num_patches

    def forward(self, images_I: Tensor, rows: Rows | None, are_trunks: bool = False) -> Tensor:
        """Unit vectors `[R, D]`, float32; without rows, the trunk's output `[I, N, F]` of images.

        Args:
            images_I: Normalised pixels `[I, C, H, W]`, or the trunk's output `[I, N, F]`; `[0]` if none.
            rows: What is embedded, or `None`.
            are_trunks: Whether the images have been through the trunk.
        """
        if rows is None:
            output_INF: Tensor = self.trunk(images_I)
            return output_INF
        tokens_RT, length_R, image_R = rows
        text_R = (image_R < 0).nonzero().flatten()
        fused_R = (image_R >= 0).nonzero().flatten()
        states = []
        if len(text_R):
            states.append(self._read_texts(tokens_RT[text_R], length_R[text_R]))
        if len(fused_R):
            output_INF = images_I if are_trunks else self.trunk(images_I)
            patches_IND = self._patches(output_INF)
            states.append(self._read_images(patches_IND[image_R[fused_R]], tokens_RT[fused_R], length_R[fused_R]))
        state_RD = torch.cat(states)[torch.argsort(torch.cat([text_R, fused_R]))]
        return functional.normalize(state_RD.float(), dim=-1)

    def recompute_activations(self) -> None:
        """Lets the backward pass compute the blocks' activations again instead of keeping them."""
        new_name = getattr(self.text, "activation_checkpointing_enable", None)  # of transformers 5
        (new_name or self.text.gradient_checkpointing_enable)({"use_reentrant": False})
        self.trunk.recompute_activations()

    @property
    def _num_positions(self) -> int:
        return int(self.text.embeddings.position_embeddings.num_embeddings)

    def _patches(self, output_INF: Tensor) -> Tensor:
        """What the text encoder reads of images."""
        embeddings = self.text.embeddings
        position_N = torch.arange(1, 1 + self.num_patches, device=output_INF.device)
        placed_IND = self.projection(output_INF) + embeddings.position_embeddings(position_N)
        patches_IND: Tensor = embeddings.dropout(embeddings.LayerNorm(placed_IND))
        return patches_IND

    def _words(self, tokens_RT: Tensor, position_T: Tensor) -> Tensor:
        """What it reads of texts; both kinds of text encoder have one kind of token type here, the first."""
        embeddings = self.text.embeddings
        words_RTD = embeddings.word_embeddings(tokens_RT) + embeddings.token_type_embeddings.weight[0]
        read_RTD: Tensor = embeddings.dropout(
            embeddings.LayerNorm(words_RTD + embeddings.position_embeddings(position_T))
        )
        return read_RTD

    def _read_texts(self, tokens_RT: Tensor, length_R: Tensor) -> Tensor:
        """State `[R, D]` of texts alone."""
        tokens_RT, is_there_RT = _trimmed(tokens_RT, length_R)
        position_T = torch.arange(tokens_RT.shape[1], device=tokens_RT.device) + self._first_position
        return self._encode(self._words(tokens_RT, position_T), is_there_RT)

    def _read_images(self, patches_RND: Tensor, tokens_RT: Tensor, length_R: Tensor) -> Tensor:
        """State `[R, D]` of patches that stand between the start and the rest of a text.

        Positions count from 0, also of text encoders whose texts alone begin elsewhere: start, patches, rest.
        """
        tokens_RT, is_there_RT = _trimmed(tokens_RT, length_R)
        position_T = torch.arange(tokens_RT.shape[1], device=tokens_RT.device)
        position_T = torch.where(position_T > 0, position_T + self.num_patches, 0)
        words_RTD = self._words(tokens_RT, position_T)
        hidden_RLD = torch.cat([words_RTD[:, :1], patches_RND.to(words_RTD.dtype), words_RTD[:, 1:]], 1)
        is_there_RL = functional.pad(is_there_RT, (self.num_patches, 0), value=True)
        return self._encode(hidden_RLD, is_there_RL)

    def _encode(self, hidden_RLD: Tensor, is_there_RL: Tensor) -> Tensor:
        mask_R11L = torch.where(is_there_RL, 0.0, _HIDDEN).to(hidden_RLD.dtype)[:, None, None]
        state_RD: Tensor = self.text.encoder(hidden_RLD, attention_mask=mask_R11L)[0][:, 0]
        return state_RD


def _trimmed(tokens_RT: Tensor, length_R: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens up to the longest of the texts, and which of them are there."""
    tokens_RT = tokens_RT[:, : int(length_R.max())]
    return tokens_RT, torch.arange(tokens_RT.shape[1], device=tokens_RT.device) < length_R[:, None]
