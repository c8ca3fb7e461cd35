"""Made-up names and values, drawn from spaces so large that none can be learned by heart.

The lists here are short, and a model that sees them often completes "ju" to "jungle" instead of
copying "jade". So :func:`use_words` gives a large vocabulary of real texts, from which most words
and names are drawn.
"""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence

ADJECTIVES = (
    "ancient brittle careful distant eager faded gentle hollow idle jolly keen lucid mellow narrow "
    "orderly patient quiet rapid solemn tidy urgent vivid wary young zealous bitter clever dusty "
    "frozen golden humble lonely misty noble polished rugged silent tender velvet wooden abrupt "
    "bashful brisk chilly crooked dapper elated fancy fluffy grumpy handy itchy jumpy kindly lazy "
    "limp lively lush macho meek naive nimble obscure plucky quaint rowdy rustic shaggy sleepy "
    "spicy stormy sturdy tangy thirsty uneven vague wacky wise witty yummy zany fertile modern"
).split()
NOUNS = (
    "acorn beacon canyon engine falcon garden harbor island jacket ladder meadow orchard pillar "
    "quarry saddle temple valley walnut yarn bridge desert feather glacier oyster rocket shovel "
    "thistle violin whistle basket almond balcony barrel blanket cabinet camera carpet castle "
    "compass cottage cushion drawer elevator fountain guitar helmet inlet jungle kayak laptop "
    "magnet napkin notebook parcel pebble pianist planet puddle racket raincoat satellite scarf "
    "sculpture statue submarine suitcase tablet telescope toaster tractor tunnel umbrella vase "
    "wagon wallet windmill zipper accordion"
).split()
FIRST = (
    "Aldous Brenna Caspian Dorothy Edmund Fiona Gareth Helga Isidore Judith Kasimir Lavinia "
    "Mortimer Nadia Oswald Prudence Rupert Sabina Tobias Ursula Vincent Wilhelmina Barnaby "
    "Clarissa Desmond Eleanor Frederick Gwendolyn Horace Imogen Amina Boris Carmen Diego Elif "
    "Fatima Goran Hana Ibrahim Jing Kofi Lucia Mei Nikhil Olga Pablo Ravi Sofia Tomasz Wei Yusuf "
    "James Mary Robert Linda Michael Susan David Karen Peter Emma Daniel Laura Kevin Anna"
).split()
LAST = (
    "Ashdown Bellweather Crabtree Dunmore Elderkin Fairweather Goodfellow Harkness Ironside Jessop "
    "Kilbride Loxley Merriman Nightingale Oakley Pemberton Quarles Rowntree Sandringham Tolliver "
    "Underhill Vickers Whitlock Yardley Smith Brown Garcia Chen Patel Novak Kowalski Okafor Haddad "
    "Rossi Larsen Tanaka Nguyen Silva Ivanova Murphy Fischer Dubois Popescu Costa Mbeki Singh"
).split()
TOWNS = (
    "Applecross Bramblewick Carrowby Dunwold Eastmere Fallowfield Greystoke Hazelmoor Ivybridge "
    "Kingsfold Langmere Mosswell Netherfield Oxenholme Pinewold Ravensby Stonebeck Thornwick "
    "Lisbon Toronto Nairobi Osaka Denver Krakow Lima Bergen Hanoi Dublin Perth Tbilisi"
).split()
COLOURS = (
    "red blue green yellow orange purple brown black white grey pink beige turquoise maroon navy "
    "lilac olive gold cream mint"
).split()
JOBS = (
    "plumber dentist translator carpenter pilot geologist baker librarian welder florist "
    "accountant surgeon tailor beekeeper chemist electrician farmer gardener interpreter "
    "journalist locksmith mechanic nurse optician painter roofer sculptor taxi-driver vet"
).split()
FOODS = (
    "cardamom paprika lemongrass turmeric oregano maple-syrup anchovies capers walnuts raisins "
    "tahini coconut-milk mustard honey parsley barley lentils mushrooms buckwheat figs olives "
    "chestnuts apricots spinach leeks pumpkin yoghurt feta prawns rhubarb quinoa tofu"
).split()
ANIMALS = (
    "badger otter heron lynx hedgehog falcon salmon beetle squirrel tortoise owl moose weasel "
    "raven seal gecko stork bison marten newt"
).split()
MATERIALS = (
    "oak granite copper leather marble bamboo steel linen clay wool pine brass cork slate glass"
).split()
LANGUAGES = (
    "Finnish Swahili Portuguese Korean Welsh Hindi Basque Turkish Icelandic Tamil Czech Arabic"
).split()
GOODS = (
    "bicycle sofa lawnmower tent printer bookcase kayak drum-kit microscope sewing-machine "
    "rucksack armchair telescope wardrobe typewriter globe camera ladder chessboard rug"
).split()
DISHES = (
    "stew curry pie salad casserole chowder risotto omelette strudel lasagne goulash tart"
).split()
EVENTS = (
    "workshop concert board-meeting wedding exhibition lecture auction rehearsal fair reunion "
    "marathon seminar picnic hearing"
).split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

OPEN: dict[str, list[str]] = {"words": [], "names": []}  # of real texts
OPEN_SHARE = 0.9

_STARTS = "b br c ch d dr f g gr h j k kl l m n p pr qu r s sh st t tr v w z".split()
_VOWELS = "a e i o u ai ea io ou".split()
_ENDS = "n r l s th nd m x rk lt ss v".split()


def use_words(vocabulary: Mapping[str, Sequence[str]]) -> None:
    """Draw from `vocabulary`, its "words" and its "names", from now on."""
    for key, held in OPEN.items():
        held[:] = vocabulary[key]


def word_of(rng: random.Random, closed: Sequence[str]) -> str:
    """A word of the list, or of real texts."""
    if OPEN["words"] and rng.random() < OPEN_SHARE:
        return rng.choice(OPEN["words"])
    return rng.choice(closed)


def name_of(rng: random.Random, closed: Sequence[str]) -> str:
    """A name of the list, or of real texts."""
    if OPEN["names"] and rng.random() < OPEN_SHARE:
        return rng.choice(OPEN["names"])
    return rng.choice(closed)


def syllables(rng: random.Random, least: int = 2, most: int = 3) -> str:
    """A made-up word."""
    word = "".join(
        rng.choice(_STARTS) + rng.choice(_VOWELS) for _ in range(rng.randint(least, most))
    )
    return word + (rng.choice(_ENDS) if rng.random() < 0.6 else "")


def person(rng: random.Random) -> str:
    """A full name, of lists or of syllables, sometimes with a title."""
    first = name_of(rng, FIRST) if rng.random() < 0.7 else syllables(rng, 1, 2).title()
    last = name_of(rng, LAST) if rng.random() < 0.6 else syllables(rng).title()
    title = rng.choice(("Dr ", "Mrs ", "Professor ", "Mr ")) if rng.random() < 0.12 else ""
    return f"{title}{first} {last}"


def place(rng: random.Random) -> str:
    """A town."""
    if rng.random() < 0.4:
        return name_of(rng, TOWNS)
    tail = rng.choice(("ton", "ville", "burg", "field", "mouth", " Bay", "stead", "ford", ""))
    return syllables(rng, 1, 2).title() + tail


def pair(rng: random.Random) -> str:
    """An adjective and a noun, as RULER's keys are."""
    return f"{word_of(rng, ADJECTIVES)}-{word_of(rng, NOUNS)}"


def uuid(rng: random.Random) -> str:
    digits = f"{rng.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def thing(rng: random.Random) -> str:
    """Something that can be owned."""
    kind = rng.choice((word_of(rng, COLOURS), word_of(rng, MATERIALS), word_of(rng, ADJECTIVES)))
    return f"{kind} {word_of(rng, GOODS)}"


def company(rng: random.Random) -> str:
    head = name_of(rng, LAST) if rng.random() < 0.4 else syllables(rng).title()
    return f"{head} {rng.choice(('Ltd', 'Industries', 'Bakery', 'Logistics', 'Labs', 'and Sons'))}"


def project(rng: random.Random) -> str:
    return (
        f"Project {word_of(rng, NOUNS).title() if rng.random() < 0.5 else syllables(rng).title()}"
    )


def code(rng: random.Random) -> str:
    letters = "".join(rng.choices(string.ascii_uppercase, k=rng.randint(1, 4)))
    return f"{letters}{rng.choice(('-', '', '/'))}{rng.randint(100, 99999)}"


def secret(rng: random.Random) -> str:
    mark = rng.choice("!#%-_")
    head = syllables(rng) if rng.random() < 0.5 else word_of(rng, NOUNS)
    if rng.random() < 0.3:
        head += mark + word_of(rng, ADJECTIVES)
    return f"{head}{mark}{rng.randint(10, 9999)}"


def phone(rng: random.Random) -> str:
    groups = [str(rng.randint(100, 999)) for _ in range(2)] + [str(rng.randint(1000, 9999))]
    return rng.choice(("-", " ")).join(groups)


def clock(rng: random.Random) -> str:
    minute = rng.choice((0, 15, 30, 45, rng.randint(0, 59)))
    if rng.random() < 0.5:
        return f"{rng.randint(0, 23):02}:{minute:02}"
    return f"{rng.randint(1, 12)}:{minute:02} {rng.choice(('a.m.', 'p.m.'))}"


def date(rng: random.Random) -> str:
    day, month = rng.randint(1, 28), rng.choice(MONTHS)
    return rng.choice((f"{day} {month} {rng.randint(1900, 2030)}", f"{month} {day}"))


def price(rng: random.Random) -> str:
    amount = f"{rng.randint(2, 9999):,}"
    return rng.choice((f"${amount}", f"{amount} euros", f"£{amount}", f"{amount} dollars"))
