"""Conversations: follow-ups, corrections, and turns that do not concern the documents."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.default_adapter.cases import Case, Turn
from benchmarks.default_adapter.tasks.phrasing import called, check, lowered, pronounised
from benchmarks.default_adapter.tasks.relations import (
    RELATIONS,
    Fact,
    Relation,
    capital,
    for_noun,
    question,
    write,
)
from benchmarks.default_adapter.tasks.scenes import Scene, companions
from sharedllm.generation.prompt import ABSENT

OTHERS = (
    "And {s}?",
    "What about {s}?",
    "And what about {s}?",
    "How about {s}?",
    "The same for {s}, please.",
    "And for {s}?",
    "Do you know that of {s}, too?",
)
STARTS = ("And ", "And ", "Okay, and ", "I see. ", "Thanks. ", "", "", "One more thing: ", "Also, ")


@dataclass
class _Talk:
    """A conversation as it goes on: the subject and the relation that were spoken of last."""

    rng: random.Random
    scene: Scene
    subject: str
    of: Relation
    told: dict[tuple[Relation, str], Fact] = field(default_factory=dict)
    turns: list[tuple[str, str, Fact]] = field(default_factory=list)

    def fact(self, of: Relation, subject: str) -> Fact:
        key = (of, subject)
        if key not in self.told:
            self.told[key] = self.scene.tell(of, subject)
        return self.told[key]

    def say(self, asked: str, one: Fact, answer: str = "") -> None:
        self.turns.append((asked, answer or one.value, one))

    def begin(self) -> None:
        one = self.fact(self.of, self.subject)
        self.say(question(self.rng, self.of, self.subject), one)

    def next_relation(self, relations: list[Relation]) -> None:
        """Ask something else of the same subject, who is called by a pronoun."""
        rng = self.rng
        asked = {of for of, subject in self.told if subject == self.subject}
        left = [of for of in relations if of not in asked]
        if not left:
            self.next_subject()
            return
        self.of = rng.choice(left)
        one = self.fact(self.of, self.subject)
        if rng.random() < 0.15:
            right = rng.random() < 0.5
            value = one.value if right else self.scene.value(self.of)
            text = check(self.of, self.subject, value, pronoun=True)
            self.say(_started(rng, text), one, "Yes" if right else "No")
            return
        form = pronounised(rng.choice(self.of.asks), self.of.subject, self.subject)
        self.say(_started(rng, write(form, self.subject)), one)

    def next_subject(self) -> None:
        """Ask the same of another subject, which alone is named."""
        one = self.scene.tell(self.of)
        self.told[(self.of, one.subject)] = one
        self.subject = one.subject
        name = called(self.of, one.subject)
        self.say(self.rng.choice(OTHERS).format(s=name), one)


def _started(rng: random.Random, asked: str) -> str:
    start = rng.choice(STARTS)
    after_word = start.rstrip()[-1:] not in ("", ".")
    return start + (lowered(asked) if after_word else capital(asked))


def follow_up(rng: random.Random, filler: str) -> Case:
    """The last of two to four questions: a pronoun, or the bare name of somebody else."""
    of = rng.choice(ASKED)
    scene = Scene(rng, filler)
    first = scene.tell(of)
    talk = _Talk(rng=rng, scene=scene, subject=first.subject, of=of)
    talk.told[(of, first.subject)] = first
    relations = companions(rng, of, 3)
    talk.begin()
    swapped = False  # "And she?" asks for what was asked last, which a yes or no would blur
    for _ in range(rng.choice((1, 1, 2, 3))):
        judged = talk.turns[-1][1] in ("Yes", "No")
        if not judged and not swapped and rng.random() < 0.5:
            talk.next_subject()
            swapped = True
        else:
            talk.next_relation(relations)
            swapped = False
    asked, answer, last = talk.turns[-1]
    scene.crowd(last, 5)
    return Case(
        kind="follow_up",
        sources=scene.sources([last], of=of),
        question=asked,
        answer=answer,
        history=tuple((q, a) for q, a, _ in talk.turns[:-1]),
        sought=" ".join([*(f"{q} {a}" for q, a, _ in talk.turns[:-1]), asked]),
    )


# relations of kinds of subjects about which several things can be asked
ASKED = [of for of in RELATIONS if of.subject not in ("pair", "code") and of.asks]

DOUBTS = (
    "Are you sure?",
    "Really? I would not have thought so.",
    "Is that right?",
    "That does not sound right to me.",
    "Hm, are you certain of that?",
)
DOUBTS_WITH = (
    "Are you sure? I thought it was {wrong}.",
    "My colleague says {wrong}.",
    "I had {wrong} in mind.",
    "Wikipedia says {wrong}. Please look again.",
    "No, I believe that it is {wrong}.",
)
INSIST = ("Yes, {v}.", "Yes, {v}.", "Yes, the documents say {v}.", "{v}", "{v}")
INSIST_AGAINST = (
    "No, the documents say {v}.",
    "The documents say {v}.",
    "{v}",
    "{v}",
    "{v}, not {wrong}.",
)
MEANT = (
    "Sorry, I meant {s}.",
    "Oh, sorry, I was thinking of {s}.",
    "Wrong name, I meant {s}.",
    "No, I mean {s}.",
    "Excuse me, not {old}, {s}.",
    "I said {old}, but I meant {s}.",
)
MEANT_NOUN = (
    "Sorry, I did not want {old} but {noun}.",
    "I put that badly: I meant {noun}.",
    "No, I was asking for {noun}.",
    "Thanks, but what I need is {noun}.",
)
MIXED_UP = (
    "No, that is the answer for {rival}. I asked about {s}.",
    "That is wrong, you are thinking of {rival}. What about {s}?",
    "You have mixed up {s} and {rival}. Please look again.",
)
AT_ONCE = (
    "{old}, sorry, I mean {new}",
    "{old}, no, wait, {new}",
    "{old}, or rather {new}",
)


def correction(rng: random.Random, filler: str) -> Case:
    """The user doubts a right answer, corrects himself, or points out that an answer is wrong."""
    (make,) = rng.choices(list(CORRECTIONS), list(CORRECTIONS.values()))
    return make(rng, filler)


def _case(scene: Scene, one: Fact, history: tuple[Turn, ...], asked: str, answer: str = "") -> Case:
    scene.crowd(one, 5)
    return Case(
        kind="correction",
        sources=scene.sources([one], of=one.relation),
        question=asked,
        answer=answer or one.value,
        history=history,
        sought=" ".join([*(f"{q} {a}" for q, a in history), asked]),
    )


def _doubted(rng: random.Random, filler: str) -> Case:
    scene = Scene(rng, filler)
    one = scene.tell(rng.choice(ASKED))
    wrong = scene.value(one.relation)
    history = ((question(rng, one.relation, one.subject), one.value),)
    against = rng.random() < 0.6
    asked = rng.choice(DOUBTS_WITH if against else DOUBTS).format(wrong=wrong)
    answer = rng.choice(INSIST_AGAINST if against else INSIST).format(v=one.value, wrong=wrong)
    return _case(scene, one, history, asked, answer)


def _meant_other(rng: random.Random, filler: str) -> Case:
    scene = Scene(rng, filler)
    of = rng.choice(ASKED)
    old, new = scene.tell(of), scene.tell(of)
    names = {"old": called(of, old.subject), "s": called(of, new.subject)}
    history = ((question(rng, of, old.subject), old.value),)
    return _case(scene, new, history, rng.choice(MEANT).format(**names))


def _meant_relation(rng: random.Random, filler: str) -> Case:
    scene = Scene(rng, filler)
    of = rng.choice(ASKED)
    old = scene.tell(of)
    new = scene.tell(companions(rng, of, 1)[0], old.subject)
    history = ((question(rng, of, old.subject), old.value),)
    nouns = {
        "old": write(of.noun, old.subject),
        "noun": write(new.relation.noun, new.subject),
    }
    return _case(scene, new, history, rng.choice(MEANT_NOUN).format(**nouns))


def _mixed_up(rng: random.Random, filler: str) -> Case:
    scene = Scene(rng, filler)
    of = rng.choice(ASKED)
    right, rival = scene.tell(of), scene.tell(of)
    names = {"s": called(of, right.subject), "rival": called(of, rival.subject)}
    said = rival.value if rng.random() < 0.75 else ABSENT
    if said == ABSENT:
        asked = rng.choice(
            ("It is there. Look again.", "I am sure that it is there.", "Try again.")
        )
    else:
        asked = rng.choice(MIXED_UP).format(**names)
    history = ((question(rng, of, right.subject), said),)
    return _case(scene, right, history, asked)


def _at_once(rng: random.Random, filler: str) -> Case:
    """The user corrects himself within the question."""
    scene = Scene(rng, filler)
    of = rng.choice(ASKED)
    old, new = scene.tell(of), scene.tell(of)
    both = rng.choice(AT_ONCE).format(old=old.subject, new=called(of, new.subject))
    noun = write(of.noun, both)
    ask = rng.choice(("What is {noun}?", "Tell me {noun}.", "I would like to know {noun}."))
    return _case(scene, new, (), for_noun(of, ask).format(noun=noun))


# the share of each kind of correction
CORRECTIONS: dict[Callable[[random.Random, str], Case], float] = {
    _doubted: 0.3,
    _meant_other: 0.25,
    _meant_relation: 0.14,
    _mixed_up: 0.21,
    _at_once: 0.1,
}

# what is said beside the documents, and the reply
SMALL_TALK: tuple[tuple[str, str], ...] = (
    ("Thank you!", "You're welcome!"),
    ("Thanks, that helps.", "You're welcome! Let me know if you have another question."),
    ("Great, thanks.", "You're welcome!"),
    ("Perfect, exactly what I needed.", "Glad to hear it!"),
    ("Thanks a lot for your help.", "My pleasure!"),
    ("Hello!", "Hello! How can I help you?"),
    ("Hi there", "Hello! How can I help you?"),
    ("Good morning", "Good morning! How can I help you?"),
    ("Good evening.", "Good evening! What can I do for you?"),
    ("Hey, how are you?", "I'm fine, thank you! How can I help you?"),
    ("That is all for now.", "All right. Let me know if you have another question."),
    ("Goodbye", "Goodbye!"),
    ("See you tomorrow.", "See you tomorrow!"),
    ("Good night!", "Good night!"),
    ("Never mind.", "All right. Let me know if you need anything else."),
    ("Wait a moment, please.", "Of course. Take your time."),
    ("I have to think about that.", "Of course. Let me know if you have another question."),
    ("Sorry, wrong window.", "No problem!"),
    ("Ok.", "Is there anything else that you would like to know?"),
    ("You were wrong the last time.", "I'm sorry about that. Which answer was wrong?"),
    ("Can I ask you something else?", "Of course. What would you like to know?"),
    ("I have a question about these documents.", "Of course. What would you like to know?"),
    ("What can you do?", "I can answer questions about your documents."),
    ("Are you a human?", "No, I'm an AI assistant."),
    ("Say hello.", "Hello!"),
    ("Please answer in English from now on.", "Of course, I will answer in English."),
    ("That's funny.", "I'm glad that you like it!"),
    ("I'm tired.", "I'm sorry to hear that. Maybe it is time for a break."),
    ("Wow, that was quick.", "Thank you! What else would you like to know?"),
)


def off_topic(rng: random.Random, filler: str) -> Case:
    """A turn that does not concern the documents, or a question after one such turn."""
    scene = Scene(rng, filler)
    one = scene.tell(rng.choice(ASKED))
    scene.crowd(one, 4)
    asked: Turn = (question(rng, one.relation, one.subject), one.value)
    talk: Turn = rng.choice(SMALL_TALK)
    if rng.random() < 0.3:  # back to the documents
        return Case(
            kind="off_topic",
            sources=scene.sources([one]),
            question=asked[0],
            answer=asked[1],
            history=(talk,),
            sought=asked[0],
        )
    return Case(
        kind="off_topic",
        sources=scene.sources([]),
        question=talk[0],
        answer=talk[1],
        history=(asked,) if rng.random() < 0.6 else (),
    )
