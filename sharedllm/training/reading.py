"""Rows of questions and answers, cleaned: what is asked, of which passage, and where it stands."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any

from sharedllm.generation.prompt import ABSENT
from sharedllm.training.examples import Span

LONGEST_ANSWER = 800  # characters, about 200 tokens
LONGEST_SUMMARY = 1600
ENDS = (". ", ".\n", "? ", "! ", "\n\n")  # of sentences; a single line end may be a wrap
LONGEST_QUESTION = 300  # longer ones carry texts of their own
STOP = frozenset(
    (
        "a about after all also an and any are as at be been before being between both but by can "
        "could did do does doing during each for from had has have having he her here him his how "
        "i if in into is it its kind list many may me mentioned more most much my name no not of "
        "on one only or other our out over people person said she so some such tell than that the "
        "their them then there these they this those through to type under up use used was we were "
        "what when where which while who whom whose why will with would you your"
    ).split()
)
# prompts that some collections wrap around their questions
_BEFORE = re.compile(
    r"^(?:(?:Extract|Given|Read|Use|Answer|Found|The following|What is the answer|I have a test|"
    r"I was|Question)[^\n]*?(?:\n.*?)?(?:the )?question:|Question:)\s*",
    re.DOTALL | re.IGNORECASE,
)
_AFTER = re.compile(
    r"\s*(?:\nAnswer:|, can you please find it ?\?|from the following article ?\?|"
    r"\nAnswer the above question[^\n]*)\s*$"
)
_SUMMARY = re.compile(r"\b(?:summar(?:y|i[sz]e)|tl;?dr)\b", re.IGNORECASE)
_UNKNOWN = re.compile(
    r"\W*(?:unanswerable|no answer|not answerable|cannotanswer|cannot be answered|unknown|"
    r"not (?:mentioned|given|stated|known|specified)|no information|n/a|none)\W*",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question about a passage.

    Attributes
    ----------
    text : str
    answers : tuple of str
        Right answers, the chosen one first; (ABSENT,) where there is none.
    passage : str
    words : frozenset of str
        The words of the question that say what it is about.
    is_summary : bool
    """

    text: str
    answers: tuple[str, ...]
    passage: str
    words: frozenset[str]
    is_summary: bool


def read(row: dict[str, Any], rng: random.Random) -> Question | None:
    """A row as a question; None where it is of no use."""
    text, passage = _unwrapped(row["question"]), _unquoted(row["context"])
    answers = [_tidy(answer) for answer in row["answer"] if str(answer).strip()]
    is_summary = bool(_SUMMARY.search(text)) and not text.lower().startswith(("who", "what is the"))
    if not (answers and passage and len(text.split()) > 1 and len(text) <= LONGEST_QUESTION):
        return None
    options = [str(option).strip() for option in row.get("options") or ()]
    if options:
        text, answers = _with_options(text, answers, options, rng)
    elif row.get("short"):
        answers = [str(row["short"]).strip()]
    elif not is_summary:
        answers = _chosen_first(answers, passage)
    if _UNKNOWN.fullmatch(answers[0]) and not stands_in(answers[0], passage):
        answers = [ABSENT]
    longest = LONGEST_SUMMARY if is_summary else LONGEST_ANSWER
    if len(answers[0]) > longest or answers[0].lower() in STOP - {"no"}:
        return None
    if not _WORD.search(answers[0]) or _is_computed(answers[0], passage):
        return None
    return Question(
        text=text,
        answers=tuple(answers),
        passage=passage,
        words=content_words(text),
        is_summary=is_summary,
    )


def content_words(text: str) -> frozenset[str]:
    return frozenset(word for word in _WORD.findall(text.lower()) if word not in STOP)


def stands_in(answer: str, passage: str) -> bool:
    """Whether the answer stands in the passage as whole words, in any case."""
    return bool(_found(answer).search(passage))


def evidence(question: Question) -> Span:
    """Characters of the passage that hold what the answer needs.

    The sentences of the answer's occurrence that has most of the question's words near it; where
    the answer does not stand in the passage, all of a short one and the most fitting stretch of a
    long one.
    """
    passage = question.passage
    if question.is_summary:
        return 0, len(passage)
    best, most = None, -1
    for number, match in enumerate(_found(question.answers[0]).finditer(passage)):
        near = passage[max(0, match.start() - 200) : match.end() + 200].lower()
        common = sum(word in near for word in question.words)
        if common > most:
            best, most = match.span(), common
        if number == 50:
            break
    if best:
        return _sentences(passage, best)
    if len(passage) <= 1600:
        return 0, len(passage)
    wanted = question.words | content_words(question.answers[0])
    starts = range(0, len(passage) - 800, 400)
    start = max(starts, key=lambda at: len(wanted & content_words(passage[at : at + 1200])))
    return start, min(start + 1200, len(passage))


def _is_computed(answer: str, passage: str) -> bool:
    """Whether the answer is a number that the passage does not name: arithmetic, not reading."""
    if len(answer) > 40 or stands_in(answer, passage):
        return False
    number = re.search(r"\d[\d.,]*", answer)
    return number is not None and number.group().rstrip(".,") not in passage


def _found(answer: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(answer)}(?!\w)", re.IGNORECASE)


def _sentences(passage: str, span: Span, most: int = 300) -> Span:
    """The span out to the ends of its sentences, at most `most` characters further."""
    start, end = span
    before = max(passage.rfind(mark, max(0, start - most), start) for mark in ENDS)
    after = [passage.find(mark, end, end + most) for mark in ENDS]
    ends = [at + 1 for at in after if at >= 0]
    first = before + 1 if before >= 0 else max(0, start - most)
    first += len(passage[first:start]) - len(passage[first:start].lstrip())
    return first, min(ends) if ends else min(len(passage), end + most)


def _unwrapped(question: str) -> str:
    text = _BEFORE.sub("", question.strip())
    text = _AFTER.sub("", text).strip().strip('"').strip()
    text = text.replace("What is (are)", "What is").replace("(are)", "")
    text = re.sub(r"\s+([?.,!])", r"\1", text)
    return re.sub(r"\?{2,}$", "?", re.sub(r" ('s|n't)\b", r"\1", text))


def _unquoted(context: str) -> str:
    text = context.strip()
    if text.startswith('"') and text.endswith(('"', '",')):
        return text.rstrip(",")[1:-1].strip()
    return text


def _tidy(answer: Any) -> str:
    """Without a repeated question in front or a detached stop behind."""
    text = re.sub(
        r"^(?:What|How|Is|Who|When|Where|Are)\b[^.?\n]{5,150}\?\s+", "", str(answer).strip()
    )
    return re.sub(r"\s+\.$", "", text).strip()


def _chosen_first(answers: list[str], passage: str) -> list[str]:
    """The shortest of those that stand in the passage first; else as they are."""
    inside = [answer for answer in answers if stands_in(answer, passage)]
    first = min(inside, key=len) if inside else answers[0]
    return [first, *(answer for answer in answers if answer != first)]


def _with_options(
    text: str, answers: list[str], options: list[str], rng: random.Random
) -> tuple[str, list[str]]:
    """Multiple choice; an answer may be given as a letter."""
    letter = answers[0].strip("(). ").upper()
    if answers[0] not in options and len(letter) == 1 and 0 <= ord(letter) - 65 < len(options):
        answers = [options[ord(letter) - 65]]
    shown = rng.sample(options, len(options))
    lines = "\n".join(f"({chr(65 + at)}) {option}" for at, option in enumerate(shown))
    return f"{text}\nOptions:\n{lines}", answers
