"""DocumentText: a text with its title and source, its tokens and its context trees."""

from __future__ import annotations

from dataclasses import dataclass, field

from sharedllm.displayed import Displayed
from sharedllm.text.outline import Outline
from sharedllm.text.tokens import Tokens
from sharedllm.text.tree import Forest


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentText(Displayed):
    """A document without a model's states; a notebook and rich's console show it.

    It takes some 17 bytes a token, where the default model's search vectors take 1,152, so that an
    answer can keep it.

    Attributes
    ----------
    id : str
        Hash of the text, the model and the tree settings: the same text gives the same id.
    title, source : str
    text : str
    tokens : Tokens
    forest : Forest
        The context trees, one a chunk.
    offset : int
        Characters before `text`, if this is a part of a longer text.
    whole_characters : int
        Characters of that longer text; 0 if `text` is all of it.
    pages : tuple of int
        Characters of the whole text at which its pages start; empty without form feeds.
    outline : tuple of Section
        The sections of the whole text, in its order; empty if it has no headings.
    """

    id: str
    title: str
    source: str
    text: str = field(repr=False)
    tokens: Tokens = field(repr=False)
    forest: Forest = field(repr=False)
    offset: int = field(default=0, repr=False)
    whole_characters: int = field(default=0, repr=False)
    pages: tuple[int, ...] = field(default=(), repr=False)
    outline: Outline = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def characters(self) -> int:
        """The length of the whole text, of which this may be a part."""
        return max(self.whole_characters, self.offset + len(self.text))

    def text_of(self, start: int, end: int) -> str:
        """The text that the tokens [`start`, `end`) cover."""
        first, last = self.tokens.characters(start, end)
        return self.text[first:last]

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Characters [start, end) of the whole text that the tokens [`start`, `end`) cover."""
        first, last = self.tokens.characters(start, end)
        return self.offset + first, self.offset + last
