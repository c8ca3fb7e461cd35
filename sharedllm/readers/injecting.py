"""The encoder's own model as a reader: injected KV and text, the adapter's role, second looks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from sharedllm.config import GenerationConfig, SearchConfig
from sharedllm.encoding.document import Document
from sharedllm.encoding.document_encoder import DocumentEncoder
from sharedllm.generation.assemble import Plan, require_window
from sharedllm.generation.decoding import Decoder
from sharedllm.generation.logits_processors import Row
from sharedllm.generation.prompt import ABSENT, Asked, Conversation, converse, part_ids
from sharedllm.generation.tool_format import ToolFormat, read_tool_format
from sharedllm.hf.loading import DEFAULT_NAME, end_ids
from sharedllm.hf.lora import Adapter
from sharedllm.injection.positions import Prompt
from sharedllm.injection.upper_model import UpperModel
from sharedllm.progress import Progress
from sharedllm.text.tokens import Tokenizer


class InjectingReader:
    """The model of `encoder` as a reader; see :class:`~sharedllm.readers.reader.Reader`.

    Attributes
    ----------
    upper : UpperModel
    decoder : Decoder
    """

    holds_grammar, load_s = True, 0.0

    def __init__(self, encoder: DocumentEncoder) -> None:
        self._encoder = encoder
        self.upper = UpperModel(encoder.model, encoder.shape, encoder.rotation, encoder.injection)
        ends = end_ids(encoder.model, encoder.tokenizer)
        self.decoder = Decoder(self.upper, encoder.tokenizer, ends, encoder.lock)

    @property
    def name(self) -> str:
        """The name that it was loaded by."""
        named = self._encoder.loaded_from
        if named is not None:
            return named[0] or DEFAULT_NAME
        config = self._encoder.model.config
        return str(getattr(config, "_name_or_path", "") or config.model_type)

    @property
    def identity(self) -> tuple[object, ...]:
        """The encoder's, with the form of injection."""
        return (*self._encoder.identity, self._encoder.injection)

    @property
    def window(self) -> int:
        """Positions that the model was trained on."""
        return self._encoder.shape.window

    @property
    def tokenizer(self) -> Tokenizer:
        """The encoder's."""
        return self._encoder.tokenizer

    @property
    def shares(self) -> bool:
        """True if it decodes the answers of several threads in one batch."""
        return self.decoder.shares

    @property
    def judges(self) -> bool:
        """True with an adapter, which has learned a text by which it abstains."""
        return self.decoder.refusal_id is not None

    @cached_property
    def tool_format(self) -> ToolFormat | None:
        """The form of tool calls in the model's chat template; None if it shows no tools."""
        return read_tool_format(self.tokenizer)

    def adapt(self, adapter: Adapter) -> None:
        """Take how its answers begin, and how it abstains, from an adapter on the model."""
        lead = adapter.config.answer_lead
        self.decoder.lead = lead
        self.decoder.refusal_id = part_ids(lead + ABSENT, self.tokenizer)[0]
        self.decoder.abstaining = adapter.config.abstaining

    def reach(self) -> None:
        """Do nothing: it is loaded."""

    def settled(self, search: SearchConfig, generation: GenerationConfig) -> SearchConfig:
        """Return `search`, whatever it is."""
        return search

    def converse(
        self, asked: Asked, documents: Sequence[Document], generation: GenerationConfig
    ) -> Conversation:
        """Put documents and messages into the model's chat format."""
        return converse(asked, documents, self.tokenizer, thinking=generation.thinking)

    def room(self, conversation: Conversation, new_tokens: int) -> int:
        """Return what the trained window leaves for evidence."""
        return require_window(conversation, self.tokenizer, self.window, new_tokens)

    def prompt(self, plan: Plan, new_tokens: int, progress: Progress = None) -> Prompt:
        """Encode the selected nodes that are missing, and put text and KV into the prompt."""
        prompt = plan.prompt(plan.encode(self._encoder, progress), self.tokenizer)
        self.upper.require_room(prompt, new_tokens)
        return prompt

    def run(
        self, prompts: Sequence[Prompt], config: GenerationConfig, rows: list[Row]
    ) -> Iterator[tuple[int, str]]:
        """Run the prompts as one batch."""
        return self.decoder.run(prompts, config, rows)
