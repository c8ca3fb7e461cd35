"""The scope of a question: passages of its documents, or all of them.

A question reads the whole where its words ask for a summary, for all of something, for a count of
what is told, for a comparison of parts or documents, or for an order of events. The rule is made of
English words. It was written for one half of 400 labelled questions and measured on the other
(benchmarks/quality/whole_questions.tsv; docs/experiments.md, 45).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from sharedllm.config import ScopeOption
from sharedllm.errors import ConfigError
from sharedllm.generation.prompt import Asked
from sharedllm.search.budget import asks_for_several
from sharedllm.whole.wording import sides_of

Kind = Literal["passages", "summary", "list", "count", "comparison", "timeline"]

WHOLE: Final = "whole"
PASSAGES: Final = "passages"
ONE_CHUNK = "the documents are one chunk, which passages read"
LONG = 60  # words of a question, of which only the first or the last sentence asks
_TEXT = (
    r"(?:documents?|texts?|books?|novels?|stor(?:y|ies)|reports?|papers?|articles?|essays?|"
    r"contracts?|agreements?|manuals?|handbooks?|guides?|plays?|meetings?|sessions?|transcripts?|"
    r"minutes|letters?|letter collection|speech(?:es)?|thes[ei]s|dissertations?|chapters?|"
    r"sections?|parts?|versions?|editions?|drafts?|notes|files?|pdf|articles?|interviews?|"
    r"proposals?|plans?|witnesses|authors|fables|recipes|poems?|laws?|policy|polic(?:y|ies))"
)
_OF_TEXT = (
    r"(?:(?:in|of|across|throughout|through|from|by) (?:the |this |these |all |both |its )*"
    rf"(?:\w+ )?{_TEXT}\b)"
)
_POLITE = (
    r"^\W*(?:(?:please|kindly|now|first|then|and|also|so|ok|okay|hi|hello)\b[ ,]*)*"
    r"(?:(?:can|could|will|would) you (?:please |briefly |also )*|i (?:want|need|would like)(?: "
    r"you)? to |"
    r"(?:your|the) task is to |let's |let us )?(?:please |briefly |shortly |now )*"
)
_GIVE = (
    r"(?:give|write|make|provide|create|build|draw|produce|show|prepare|put together|compile|"
    r"generate|need|want|like|get|have)(?: me| us)?(?: with)?"
)
_ALL = r"(?:all|every|each|everyone|everybody|everything|any)"
_PLURAL = r"\w{2,}(?<![sui'])s|people|women|men|children|persons"

_NOTHING = re.compile(  # questions that hold such words about something within the text
    r"^\W*how (?:do|can|to|would|should|could) (?:i|you|we|one)\b"
    r"|^\W*(?:which|what) (?:function|command|method|option|test|tool|button|key|class|sentence)\b"
    r"|^\W*what (?:does|do|did) (?:the )?(?:function|method|option|command|class|parameter)\b"
    r"|^\W*(?:does|do|did|is|are|was|were|has|have|had|can|could|may|must|should|will|would)\b"
    r"(?!.*\b(?:contradict|consistent|list|count|compare|you)\b)",
    re.IGNORECASE,
)
_ABOUT = r"(?!.{0,80}\b(?:about|regarding|concerning|related to|discussion)\b)"  # a part of it
_OBJECT = (  # of a summary: nothing, "it", or a text
    r"(?= *(?:$|[^\w\s]|(?:it|this|that|them|all|everything|what happens|briefly|in|for|to)\b"
    rf"|(?:[\w'-]+ ){{0,4}}?{_TEXT}\b))"
)
_SUMMARY = (
    _POLITE + rf"(?:summari[sz]e|sum up|tl;?\s?dr|recap|condense|shorten)\b{_OBJECT}{_ABOUT}",
    _POLITE + r"outline the (?:argument|plot|content|text|document)\b",
    r"[.?!,;:] *(?:please )?(?:summari[sz]e|sum up|tl;?dr)\b",
    r"^\W*(?:(?:a|the|short|brief|concise) )*(?:summary|synopsis|tl;?dr|overview|abstract|gist|"
    r"highlights|"
    r"recap)\b[^?]{0,40}\W*$",
    _GIVE
    + r" (?:an? |the |one |some )?(?:[\w-]+ ){0,3}(?:summary|overview|synopsis|abstract|recap|"
    r"gist|essence|highlights|outline)\b",
    r"\bwhat(?:'s| is| are|s)(?: the)? (?:gist|essence|upshot|bottom line)\b",
    rf"\bwhat(?:'s| is| was|s) (?:it|this|that|(?:the|this|that) (?:\w+ )?{_TEXT})(?: all| mainly|"
    r" really)? about\b",
    rf"\bwhat (?:happens|happened|occurs|goes on) in (?:the|this|that) (?:\w+ )?{_TEXT}\W*$",
    r"\b(?:main|key|most important|central|principal|major|chief) (?:points?|takeaways?|findings?|"
    r"ideas?|arguments?|themes?|topics?|messages?|conclusions?|results|theses|claims?)\b",
    r"\bwhat (?:is|are) the (?:overall |general )?(?:themes?|topics?|subjects?|tone|mood|moral|"
    rf"contents?|message|conclusion|style)\b.{{0,20}}{_OF_TEXT}",
    r"\b(?:what|which) (?:topics?|subjects?|themes?|issues)\b.{0,20}\b(?:cover(?:ed|s)?|"
    r"discussed|treated|deal)\b",
    r"\bas a whole\b|\bfrom (?:the )?beginning to (?:the )?end\b|\bin a nutshell\b",
    rf"\bwhat (?:does|do|did) (?:the|this) {_TEXT} (?:say|conclude|discuss|contain|cover|argue|"
    r"claim)(?: overall| in general| in total| as a whole)\W*$",
    r"\bwhat (?:does|did) the (?:author|writer) want to (?:say|tell)\b",
    rf"\bwhat should i (?:take away|know|learn|remember)\b.{{0,12}}\b{_TEXT}",
    _POLITE
    + r"(?:describe|explain|characteri[sz]e|review|tell (?:me|us)|present)(?: me| us| in short| "
    r"briefly| shortly)* "
    r"(?:what )?(?:the |this )?(?:whole |entire |main |overall |general )?(?:plot|content|"
    rf"contents|argument|story ?line|style|{_TEXT})\b(?! (?:of the \w+$|on|that|in which|about))",
)
_LIST = (
    _POLITE + r"(?:list|enumerate)\b",
    r"[.?!,;:] *(?:please )?(?:list|name|give|enumerate) (?:them all|all|all of (?:them|these|"
    r"those)|every(?: \w+)?|each)\b",
    _POLITE
    + r"(?:name|give|find|show|extract|collect|identify|tell|write down|point out|mention|cite|"
    r"quote|get|state|return|gather)\b(?: me| us)?"
    rf"(?: \w+){{0,4}} (?:{_ALL}|complete list|list of)\b",
    _POLITE
    + r"(?:name|give|find|show|extract|collect|identify|state)(?: me| us)? (?:the )?(?:names of "
    r"(?:the )?)?(?:main )?"
    r"(?:characters|persons|people|figures)\b",
    _GIVE + r" (?:an? |the )?(?:\w+ ){0,2}(?:list|index|inventory|enumeration|table) of\b",
    r"^\W*(?:(?:what|which|who) (?:\w+ )?(?:are|were)|(?:what|who)'(?:s|re)) all\b",
    r"^\W*(?:(?:a|the|complete|full|short) )*(?:list|index|inventory) of\b",
    r"^\W*(?:all|every|each)\b(?! (?:is|was|are|were|the time)\b)[^?]*$",
    rf"\b(?:which|what|who)\b.{{0,50}}\b(?:mentioned|named|appears?|occurs?|introduced|listed|"
    r"cited|quoted|referred to|used)\b"
    rf"(?: at all| anywhere| somewhere)? {_OF_TEXT}",
    rf"\b(?:which|what)\b.{{0,40}}\b(?:appear|occur|are mentioned|are named)\b.{{0,10}}{_OF_TEXT}",
    r"\bwho are the (?:main )?(?:characters|persons|people|protagonists|figures)\b",
    rf"\bwhat are the contents {_OF_TEXT}",
)
_COUNT = (
    _POLITE + r"count\b(?! (?:did|does|do|was|is)\b)",
    r"\bhow many times (?:is|are|was|were|does|do|did|has|have|had|in)\b"
    r"(?!.{0,60}\b(?:a|per|each|every) (?:second|minute|hour|day|night|week|month|year|decade)\b)",
    r"\bhow (?:often|frequently) did\b",
    r"\bhow (?:often|frequently)\b.{0,60}\b(?:mention(?:ed|s)?|said|told|occurs?|appears?|uses?|"
    r"used|recorded|named|the word|the term|the phrase)\b",
    r"\bhow many (?:different|distinct|unique|of the|of these|of them)\b",
    r"\bhow many\b.{1,60}\b(?:mention(?:ed|s)?|named?|listed|quoted|cited|described|told of|"
    r"appears?|occurs?|in all|altogether|in total)\b",
    rf"\bhow many\b.{{1,60}}\b(?:are there |speak |act |talk |live |die )?in (?:the|this|these) "
    rf"(?:whole |entire )?{_TEXT}\b",
    r"\bin how many (?:chapters|sections|parts|documents|places|scenes)\b",
    r"\b(?:total )?number of (?:times|\w+ (?:mentioned|quoted|named|cited|listed|in the "
    rf"{_TEXT}))\b",
)
_COMPARISON = (
    _POLITE + r"(?:compare|contrast)\b",
    r"[.?!,;:] *(?:please )?(?:compare|contrast) (?:them|both|the two|these|those)\b",
    _GIVE + r" (?:an? |the )?(?:\w+ )?comparison\b",
    rf"\b(?:differences?|similarit(?:y|ies))\b.{{0,30}}\b(?:between|of|to|in)\b(?: the| these| "
    rf"both| all| those| two| my)* (?:two |three |first |last |old |new |\w+ )?(?:{_TEXT})\b",
    r"\b(?:similarities and|and similarities|and differences)\b",
    rf"\bhow (?:do|does|did)\b.{{0,40}}\b{_TEXT}\b.{{0,30}}\bdiffer\b",
    rf"\bin what\b.{{0,40}}\b{_TEXT}\b.{{0,20}}\bdiffer\b|\bwhere do\b.{{0,60}}\bdiffer\b",
    r"\bhow does the (?:end|ending|last|second|new)\b.{0,30}\bdiffer from\b",
    r"\bwhat (?:has )?changed between\b|\bwhat is (?:new|different) in\b",
    rf"\b{_TEXT}\b.{{0,25}}\b(?:dis)?agree\b|\b(?:dis)?agree\b.{{0,20}}\bboth {_TEXT}\b|\bon "
    r"which points\b",
    r"\bcontradict each other\b|\bcontradict one another\b",
    rf"\bwhat do (?:the|these|both|all)(?: two| three)? {_TEXT} (?:have in common|say differently|"
    r"share)\b",
    r"\bcompared (?:to|with) the (?:old|first|previous|other|earlier|last|second|original)\b",
    r"\bconsistent with the (?:last|first|other|second|rest)\b",
)
_TIMELINE = (
    r"\bin (?:what|which) order (?:do|did|does)\b|\b(?:chronological|in order of time)\b",
    r"\bput\b.{0,30}\bin order\b|\bsequence of events\b|\byear by year\b|\bday by day\b",
    r"^\W*(?:(?:a|the) )?(?:timeline|chronology)\b[^?]*\W*$",
    _GIVE + r" (?:an? |the )?(?:\w+ )?(?:timeline|chronology)\b",
    _POLITE + r"(?:trace|follow)\b.{0,60}\b(?:through|throughout|development|over)\b",
    _POLITE + r"show\b.{0,40}\b(?:history|step by step)\b",
    r"\b(?:change|develop|evolve|grow)\w*\b.{0,20}\b(?:over the course|throughout|through the|"
    r"in the course)\b",
    r"\bhow (?:does|do|did)\b.{0,50}\b(?:change|develop|evolve)\b.{0,20}\b(?:over the course "
    r"of|throughout|in the course of)\b",
)


def _one(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


RULES: tuple[tuple[Kind, re.Pattern[str], str], ...] = (
    ("timeline", _one(_TIMELINE), "it asks for the order of events"),
    ("comparison", _one(_COMPARISON), "it asks for a comparison"),
    ("count", _one(_COUNT), "it asks how many of something there are"),
    ("list", _one(_LIST), "it asks for all of something"),
    ("summary", _one(_SUMMARY), "it asks for a summary"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """The kind of thing that a question asks for, and why it is taken for that.

    Attributes
    ----------
    kind : str
        "passages", or the way in which the whole is read.
    reason : str
    """

    kind: Kind
    reason: str

    @property
    def is_whole(self) -> bool:
        """True unless passages are enough."""
        return self.kind != "passages"


def scope_of(question: str) -> Scope:
    """Decide from its words whether `question` needs the whole of its documents."""
    asked = " ".join(question.split())
    tried = [asked]
    if len(asked.split()) > LONG:  # a text stands within it; what is asked, at one of its ends
        parts = re.split(r"(?<=[.!?:])\s+", asked)
        first, last = parts[0], parts[-1]
        tried = [last] if last.endswith("?") else [last, first]
    for one in tried:
        if _NOTHING.search(one):
            continue
        for kind, rule, reason in RULES:
            if rule.search(one):
                return Scope(kind=kind, reason=reason)
    return Scope(kind="passages", reason="it asks for something that passages can hold")


def kind_of(question: str) -> Kind:
    """Return how the whole is read for a question that has to read it, whatever its words say."""
    scope = scope_of(question)
    if scope.is_whole:
        return scope.kind
    if sides_of(question) is not None:
        return "comparison"
    wh = re.match(
        r"^\W*(?:which|who|whom|whose|what|where|when|in which|at which)\b", question, re.I
    )
    return "list" if wh or asks_for_several(question) else "summary"


def decide_scope(asked: Asked, option: ScopeOption, *, has_context: bool, bound: bool) -> Scope:
    """Decide what is read for a question.

    Parameters
    ----------
    has_context : there are documents besides those in its messages
    bound : the answer has to call tools, or to follow a grammar, which a joined one does not

    Raises
    ------
    ConfigError
        If the whole is asked for where it cannot be read.
    """
    if option == PASSAGES:
        return Scope(kind=PASSAGES, reason="scope is 'passages'")
    if option == WHOLE:
        if bound:
            raise ConfigError(
                "scope is 'whole', and the answer has to call tools or to follow a grammar: what "
                "is joined from many parts follows none. Leave out scope, or tools and grammar"
            )
        return Scope(kind=kind_of(asked.query), reason="scope is 'whole'")
    if bound or not (has_context or asked.documents):
        why = "tools or a grammar" if bound else "no document"
        return Scope(kind=PASSAGES, reason=f"there is {why}")
    return scope_of(asked.query)
