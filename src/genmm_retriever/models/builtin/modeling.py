"""The builtin model: grid features -> projector -> visual tokens and object words -> Llama.

The shape is GeMKR's (arXiv 2401.08206): a frozen vision backbone, a few projected visual
tokens, a frozen language model with LoRA. The object words are ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from genmm_retriever.errors import MissingExtraError
from genmm_retriever.models.builtin.configuration import GenmmBuiltinConfig
from genmm_retriever.models.builtin.contrastive import ContrastiveHead, WordedHead


class Projector(nn.Module):
    """Grid features into the language model's embedding space, with a learned place a cell.

    The first output is the whole picture (the mean over the cells), then come the cells.
    """

    def __init__(self, config: GenmmBuiltinConfig) -> None:
        super().__init__()
        cells = 1 + config.grid * config.grid
        width = config.text_config.hidden_size
        self.norm = nn.LayerNorm(config.vision_dim)
        self.up = nn.Linear(config.vision_dim, config.projector_dim)
        self.down = nn.Linear(config.projector_dim, width)
        self.place = nn.Parameter(torch.zeros(cells, width))
        self.dropout = nn.Dropout(0.2)

    def forward(self, features: Tensor) -> Tensor:
        """Features [n, rows, vision_dim] -> [n, cells, hidden]."""
        features = features[:, : len(self.place) - 1]
        cells = torch.cat([features.mean(dim=1, keepdim=True), features], dim=1)
        hidden = nn.functional.gelu(self.up(self.dropout(self.norm(cells))))
        out: Tensor = self.down(hidden) + self.place
        return out


class ObjectWords(nn.Module):
    """The classifier's best labels as words of the language model, with their confidence.

    `label_tokens` is a table [labels, L] of token ids, -1 beyond a label's end; the loader
    fills it with `set_labels`.
    """

    label_tokens: Tensor

    def __init__(self, config: GenmmBuiltinConfig, label_width: int = 6) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.slots = config.object_slots
        self.labels = config.object_labels
        self.min_probability = config.object_min_probability
        self.confidence = nn.Parameter(torch.zeros(width))
        self.absent = nn.Parameter(torch.zeros(width))
        self.register_buffer(
            "label_tokens",
            torch.full((config.num_labels_vision, label_width), -1, dtype=torch.long),
        )

    def set_labels(self, token_ids: list[list[int]]) -> None:
        """Fill the table; labels longer than its width are cut."""
        self.label_tokens.fill_(-1)
        for row, ids in enumerate(token_ids):
            kept = ids[: self.label_tokens.shape[1]]
            self.label_tokens[row, : len(kept)] = torch.tensor(kept)

    def forward(self, probabilities: Tensor, embedding: nn.Module) -> Tensor:
        """[n, labels] probabilities -> [n, slots, hidden]."""
        best, label = probabilities.topk(self.labels, dim=-1)
        tokens = self.label_tokens[label].clone()  # [n, labels, L]
        tokens[best < self.min_probability] = -1
        confidence = best.unsqueeze(-1).expand(tokens.shape).flatten(1)
        tokens = tokens.flatten(1)
        order = (tokens < 0).to(torch.int8).argsort(dim=1, stable=True)[:, : self.slots]
        tokens = tokens.gather(1, order)
        confidence = confidence.gather(1, order).unsqueeze(-1)
        present = (tokens >= 0).unsqueeze(-1)
        words = embedding(tokens.clamp_min(0))
        said = words + (confidence.to(words.dtype) * self.confidence.to(words.dtype))
        return torch.where(present, said, self.absent.to(words.dtype))


class _Pretrained(PreTrainedModel):  # type: ignore[no-untyped-call]
    config_class = GenmmBuiltinConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_cache_class = True
    _no_split_modules = ["LlamaDecoderLayer"]  # noqa: RUF012 - declared so by transformers
    # Small, and convolutions are slower in bfloat16 on a CPU.
    _keep_in_fp32_modules_strict = {"vision", "projector", "contrastive", "matching"}  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        # The vision backbone initialises itself; transformers' default would undo it.
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data.normal_(mean=0.0, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.data.zero_()


class GenmmBuiltinModel(_Pretrained):  # type: ignore[no-untyped-call]
    """Pictures and words into hidden states; see `GenmmBuiltinForConditionalGeneration`."""

    def __init__(self, config: GenmmBuiltinConfig) -> None:
        super().__init__(config)
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingExtraError("efficientnet-lite-pytorch", "builtin") from error
        self.vision = EfficientNet.from_name(
            config.vision_model, num_classes=config.num_labels_vision
        )
        self.projector = Projector(config)
        self.objects = ObjectWords(config)
        self.language_model = AutoModel.from_config(config.text_config)  # type: ignore[no-untyped-call]
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embedding."""
        embedding: nn.Module = self.language_model.get_input_embeddings()
        return embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embedding."""
        self.language_model.set_input_embeddings(value)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Average-pooled cells of the last feature map, and the means of lower ones.

        Args:
            pixel_values: [n, 3, side, side], scaled to about [-1, 1].

        Returns:
            [n, grid * grid + 1, vision_dim]: the cells row by row from the top left, then the
            `lower_dim` means of the lower blocks, filled up with zeros.
        """
        weight = self.vision._fc.weight
        lower: list[Tensor] = []

        def keep(block: nn.Module, inputs: Any, output: Tensor) -> None:
            lower.append(self._pool(output).mean(dim=1))

        blocks = [self.vision._blocks[place] for place in self.config.lower_blocks]
        hooks = [block.register_forward_hook(keep) for block in blocks]
        try:
            maps = self.vision.extract_features(pixel_values.to(weight.dtype))
        finally:
            for hook in hooks:
                hook.remove()
        cells = self._pool(maps)
        means = torch.cat([cells[:, 0, :0], *lower], dim=1)
        room = (0, cells.shape[-1] - means.shape[-1])
        return torch.cat([cells, nn.functional.pad(means, room).unsqueeze(1)], dim=1)

    def _pool(self, maps: Tensor) -> Tensor:
        """[n, channels, h, w] -> [n, cells, channels]."""
        pooled = nn.functional.adaptive_avg_pool2d(maps, self.config.grid)
        return pooled.flatten(2).transpose(1, 2)

    def classify(self, image_features: Tensor) -> Tensor:
        """ImageNet probabilities [n, labels], float32, from grid features."""
        # Equal cells tile the map, so their mean is the classifier's own global pooling.
        head = self.vision._fc
        pooled = image_features[:, :-1].float().mean(dim=1)
        logits = nn.functional.linear(pooled, head.weight.float(), head.bias.float())
        return logits.softmax(dim=-1)

    def image_embeddings(self, image_features: Tensor) -> Tensor:
        """Grid features -> what stands at a picture's positions, [n, image_seq_length, hidden]."""
        embedding = self.get_input_embeddings()
        dtype = embedding.weight.dtype
        visual = self.projector(image_features.to(self.projector.up.weight.dtype))
        words = self.objects(self.classify(image_features), embedding)
        return torch.cat([visual.to(dtype), words.to(dtype)], dim=1)

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
    ) -> Tensor:
        """Token embeddings with the pictures' vectors at their placeholders, [b, t, hidden].

        Raises:
            ValueError: If placeholders and pictures do not match in number.
        """
        is_image = input_ids == self.config.image_token_id
        embeds: Tensor = self.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        if image_features is None and pixel_values is not None:
            image_features = self.get_image_features(pixel_values)
        if image_features is None:
            return embeds
        vectors = self.image_embeddings(image_features).flatten(0, 1)
        if int(is_image.sum()) != vectors.shape[0]:
            raise ValueError(
                f"{int(is_image.sum())} image positions for {image_features.shape[0]} pictures; "
                f"each takes {self.config.image_seq_length}"
            )
        return embeds.masked_scatter(is_image.unsqueeze(-1), vectors.to(embeds.dtype))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As `LlamaModel.forward`, with pictures at the placeholder positions."""
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("either input_ids or inputs_embeds is needed")
            inputs_embeds = self.embed(input_ids, pixel_values, image_features)
        output: BaseModelOutputWithPast = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        return output


class GenmmBuiltinForConditionalGeneration(_Pretrained, GenerationMixin):  # type: ignore[no-untyped-call]
    """A small multimodal language model that runs on a laptop's CPU.

    Pictures come in as `pixel_values` [n, 3, side, side] or, computed once and kept, as
    `image_features` [n, grid * grid + 1, vision_dim] from `get_image_features`.
    """

    _tied_weights_keys = {  # noqa: RUF012 - declared so by transformers
        "lm_head.weight": "model.language_model.embed_tokens.weight"
    }

    def __init__(self, config: GenmmBuiltinConfig) -> None:
        super().__init__(config)
        self.model = GenmmBuiltinModel(config)
        self.contrastive = ContrastiveHead(config)
        self.matching = WordedHead(config)
        text = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embedding."""
        embedding: nn.Module = self.model.get_input_embeddings()
        return embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embedding."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The vocabulary head."""
        head: nn.Module = self.lm_head
        return head

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """See `GenmmBuiltinModel.get_image_features`."""
        features: Tensor = self.model.get_image_features(pixel_values)
        return features

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As `LlamaForCausalLM.forward`, with pictures at the placeholder positions."""
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            image_features=image_features,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(output.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Give the pictures to the first step only; later steps have them in the cache."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if is_first_iteration or not kwargs.get("use_cache", True):
            inputs["pixel_values"] = pixel_values
            inputs["image_features"] = image_features
        return inputs
