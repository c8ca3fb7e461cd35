"""Follow-up questions: the turns that they refer to are searched for as well.

"Was it successful?" has no word by which its evidence could be found. Of 103 follow-ups among 163
documents the evidence was found within 1,024 tokens for 36 % of the questions alone, and for 82 %
of them with the turns before; a question that stands alone after a turn about something else would
lose half of its evidence with those, so a rule tells the two apart (docs/experiments.md, 37).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sharedllm.search.sentences import WORD, content_words, stem

TURNS = 3  # before the question that are searched for as well
MOST = 60  # words at the end of each of their questions, and at the beginning of each answer
LONG = 30  # words of a question that says all itself
FEW = 2  # words of content, after which a pronoun refers to them
SHARED = 4  # letters of a word that a question and an earlier turn share
PRONOUNS = frozenset(
    (
        "he she it they him her them his hers its their theirs himself herself itself themselves "
        "these those latter former"
    ).split()
)
PERSONAL = frozenset("he she him her hers his himself herself".split())
# words that "he" or "she" can stand for: by their endings, or from the list
PERSON = re.compile(
    r"\w{2,}(?:er|or|ist|ian|man|woman|ess|eur|ee)s?"
    r"|(?:student|agent|president|resident|servant|assistant|merchant|man|men|woman|women|fellow|lad|lass|maid|king|queen|boy|girl|child|baby|son|prince|wife|husband|aunt|uncle|niece|nephew|cousin|lady|"
    r"lord|guy|friend|hero|heroine|patient|nurse|chief|judge|priest|monk|nun|pope|saint|god|devil|"
    r"ghost|witch|giant|dwarf|fox|wolf|bear|lion|cat|dog|horse|bird|someone|anyone|everyone|"
    r"somebody|person|victim|guest|host|pilot|captain|spouse|who|employee|individual|human)s?"
)
_OWN = r"(?! (?:agreement|contract|document|text|table|page|book|story|statement)\b)"
FIRST = re.compile(  # cues in a question of any length
    r"^\W*(?:and|but|or|so|also|then|(?:what|how) about|how so|how come|why not|go on)\b"
    r"|^\W*any(?:thing)? (?:other|else|more|interesting)\b|\bmore (?:about|details?)\b"
)
CUE = re.compile(
    r"\b(?:this|that|there|here|then)\W*$|\b(?:does|did|was) (?:this|that)\b"
    + _OWN
    + r"|\b(?:of|about|after|before|like|during|since|despite|by|at) (?:this|that)\b"
    + _OWN
    + r"|\b(?:else|afterwards?|previously|(?:any|what|which|who|how many) others?)\b"
)
# "it" that refers to nothing: "is it true that", "how long does it take"
EXPLETIVE = re.compile(
    r"\bit (?:is|was|be|takes?|took|possible|true|legal|illegal|safe|necessary|normal|rains?|snows?"
    r"|the case)\b|\bis it (?:ok|okay|better|good|bad)\b"
)


def in_conversation(question: str, earlier: Sequence[tuple[str, str]]) -> str:
    """Return what to search for: `question`, with the turns before it if it refers to them.

    Parameters
    ----------
    earlier : (question, answer) of the turns before, oldest first
    """
    turns = [
        (" ".join(asked.split()[-MOST:]), " ".join(answer.split()[:MOST]))
        for asked, answer in earlier[-TURNS:]
    ]
    if not turns or not refers_back(question, turns):
        return question
    return " ".join(filter(None, [question, *(part for turn in turns for part in turn)]))


def refers_back(question: str, earlier: Sequence[tuple[str, str]]) -> bool:
    """Tell a question that needs the turns before it to be understood.

    It has no word of content, or says "and ...", "what about ...", "after that", or has a pronoun
    before it has said what that could stand for, or shares a word of content with those turns. The
    cues are English; a shared word is one in any language.
    """
    low = question.lower()
    words = [match.group() for match in WORD.finditer(low)]
    own = content_words(low)
    if not own or FIRST.search(low):
        return True
    if len(words) > LONG:
        return False
    if CUE.search(low) or _has_open_pronoun(question):
        return True
    held = {stem(word) for turn in earlier for part in turn for word in content_words(part.lower())}
    return any(len(word) >= SHARED and stem(word) in held for word in own)


def _has_open_pronoun(question: str) -> bool:
    """Tell a pronoun that stands in front of what it could refer to within its own question."""
    low = question.lower()
    for match in WORD.finditer(low):
        if match.group() not in PRONOUNS:
            continue
        before = question[: match.start()]
        if len(content_words(before.lower())) < FEW:
            return match.group() != "it" or not EXPLETIVE.search(low)
        if match.group() in PERSONAL and not _names_somebody(before):
            return True
    return False


def _names_somebody(text: str) -> bool:
    """Tell a name or another word for a person; a capital letter may begin the text."""
    found = [match.group() for match in WORD.finditer(text)]
    return any(word[0].isupper() for word in found[1:]) or any(
        PERSON.fullmatch(word.lower()) for word in found
    )
