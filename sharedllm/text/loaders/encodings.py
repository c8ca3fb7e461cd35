"""Bytes -> text: by the encoding that is named, declared or marked, else by what they look like.

UTF-8 is recognised by its rules, UTF-16 and UTF-32 by their zeros, the encodings of Chinese,
Japanese and Korean by how many of a text's characters are common ones, and those of one byte a
character by charset-normalizer, which knows the letters of languages. Where bytes are text in two
of them and nothing speaks for one, the error shows the beginning in each.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import islice

from sharedllm.errors import DocumentError, InputError
from sharedllm.text.loaders.source import Given

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
DECLARED = (
    re.compile(rb"^\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*[\"']([^\"'>]{1,60})"),
    re.compile(rb"<meta\b[^>]{0,400}?\bcharset\s*=\s*[\"']?\s*([^\s\"'/>;]{1,60})", re.IGNORECASE),
)
HEAD = 4_096  # bytes in which a page declares its encoding
SAMPLE = 1 << 16  # bytes by which an encoding is told
CONTROL = re.compile(r"[\x01-\x08\x0e-\x1a\x1c-\x1f\x7f]")
MOST_CONTROL = 0.05  # share of control characters above which bytes are not text
MOST_ZEROS = 0.01  # the same for NUL: a log may have one, and PDF fonts map ligatures to it

WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
# With the first bytes of their common characters (level 1 of the standard behind them).
EAST_ASIAN = {
    "gb18030": (0xA1, 0xD7),
    "big5": (0xA1, 0xC6),
    "cp932": (0x81, 0x97),
    "euc_jp": (0xA1, 0xCF),
    "cp949": (0xA1, 0xC8),
}
COMMON = 0.9  # share of common characters that speaks for one of them
CLEAR = 0.08  # by which the best must be ahead
SINGLE = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874"),
    *("iso8859_2", "koi8_r", "cp866"),
)
WESTERN = re.compile(
    "[^\x00-\x7fàâäáãåæçéèêëîïíìñôöòóõøœùûüúÿßÀÂÄÁÃÅÆÇÉÈÊËÎÏÍÌÑÔÖÒÓÕØŒÙÛÜÚ"
    "\xa1-\xb3\xb5-\xbf\xd7\u20ac\u2013-\u201e\u2026\u2022\u2122\xa0\xad]"
)
KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa]")
# A letter of another script, or a sign, inside of a word of plain letters.
INSIDE_A_WORD = re.compile(
    "[A-Za-z](?:[^\x00-\u024f\u1e00-\u206f]|[^\x00-\x7f\\w\u2010-\u2019\xad\xb7\xa0\u2026]){1,3}[a-z]"
)
# The frequent letters of Russian and its neighbours, Greek, Hebrew and Arabic.
FREQUENT = (
    frozenset(
        "\u043e\u0435\u0430\u0438\u043d\u0442\u0441\u0440\u0432\u043b\u043a\u043c\u0434\u043f\u0443"
    ),
    frozenset(
        "\u03b1\u03bf\u03b9\u03b5\u03c4\u03c3\u03bd\u03b7\u03c5\u03c1\u03c0\u03ba\u03bb\u03bc\u03c2\u03af\u03ac\u03cc"
    ),
    frozenset("\u05d9\u05d5\u05d4\u05dc\u05d0\u05de\u05e8\u05ea\u05d1\u05e9\u05e0"),
    frozenset(
        "\u0627\u0644\u064a\u0645\u0648\u0646\u0631\u062a\u0628\u0639\u0647\u062f\u0633\u0629"
    ),
)
MANY_FREQUENT, CLEARLY_MORE = 0.7, 0.15
MOST_ACCENTS = 0.3  # of the letters of a text in Latin script
PREVIEW = 30  # characters of a guess in an error


def decode(given: Given, *, declared: str | None = None) -> str:
    """Decode a text.

    Parameters
    ----------
    declared : the encoding that the text itself names; another one is looked for where it is wrong

    Raises
    ------
    InputError
        If the encoding that the user named is not known.
    DocumentError
        If the bytes are not text, or not in the encoding that the user named, or their encoding
        cannot be told.
    """
    data, source = given.data, given.source
    if given.encoding is not None:
        return _text_only(_named(data, source, given.encoding), source)
    mark = next((name for bom, name in BOMS if data.startswith(bom)), None)
    if mark is not None:
        return _text_only(_named(data, source, mark), source)
    wide = _wide(data)
    if wide is not None:
        return _text_only(data.decode(wide), source)
    for name in (declared, "utf-8"):
        text = _strict(data, name) if name else None
        if text is not None and name == "utf-8" and b"\x1b$" in data:  # seven bits a byte
            text = _strict(data, "iso2022_jp") or text
        if text is not None:
            return _text_only(text, source)
    _text_only(data.decode("latin-1"), source)  # says of binary files that they are
    _refuse_damaged(data, source)
    return _guessed(data, source)


def declared_encoding(given: Given) -> str | None:
    """Return the encoding that a page declares, as browsers understand its name.

    Raises
    ------
    DocumentError
        If there is none of that name.
    """
    import webencodings

    if given.encoding is not None or given.data.startswith(tuple(bom for bom, _ in BOMS)):
        return None
    found = next((m for m in (p.search(given.data[:HEAD]) for p in DECLARED) if m), None)
    if found is None:
        return None
    name = found[1].decode("latin-1")
    known = webencodings.lookup(name.strip())
    if known is None:
        raise DocumentError(
            f"{given.source} declares the unknown encoding {name!r}; find out which it has and "
            "give it as encoding= (--encoding), or convert the file to UTF-8"
        )
    codec = known.codec_info.name
    return None if codec.startswith(("utf-16", "x-user")) else codec  # it was read as ASCII


def require_encoding(name: str) -> str:
    """Return the codec called `name`.

    Raises
    ------
    InputError
        If Python has no codec of text with this name.
    """
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError, TypeError) as error:
        raise InputError(
            f"encoding is {name!r}, which is not known; give one that Python knows, such as "
            "utf-8, cp1252, gb18030 or shift_jis"
        ) from error
    if not getattr(info, "_is_text_encoding", True):
        raise InputError(f"encoding is {name!r}, which is not an encoding of text")
    return info.name


def _named(data: bytes, source: str, name: str) -> str:
    """Decode in the encoding that the user or a mark named."""
    codec = require_encoding(name)
    try:
        return data.decode(codec)
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"{source} is not {codec.removesuffix('-sig').upper()} text: byte {error.start:,} is "
            f"{data[error.start]:#04x}; give another encoding= (--encoding), or leave it out to "
            "have it recognised"
        ) from error
    except (UnicodeError, ValueError) as error:
        raise DocumentError(f"{source} cannot be decoded as {codec}: {error}") from error


def _strict(data: bytes, name: str) -> str | None:
    try:
        return data.decode(name)
    except (UnicodeError, ValueError, LookupError):
        return None


def _text_only(text: str, source: str) -> str:
    """Refuse what is not text."""
    zeros = text.count("\0")
    if (
        zeros > max(MOST_ZEROS * len(text), 2)
        or len(CONTROL.findall(text)) > MOST_CONTROL * len(text)
        or zeros >= len(text.strip("\0 \n")) > 0
    ):
        raise DocumentError(
            f"{source} is binary, not text, or has another encoding; name its encoding with "
            "encoding= (--encoding), or convert it to one of the formats that are read"
        )
    return text


def _refuse_damaged(data: bytes, source: str) -> None:
    """Refuse UTF-8 with a few wrong bytes: in another encoding it would be other words."""
    text = data.decode("utf-8", "surrogateescape")
    wrong = [c for c in text if "\udc80" <= c <= "\udcff"]
    right = sum(c > "\x7f" for c in text) - len(wrong)
    if right > 2 * len(wrong):
        at = len(text[: text.index(wrong[0])].encode())
        raise DocumentError(
            f"{source} is UTF-8 text but for {len(wrong):,} of its bytes, the first of which is "
            f"byte {at:,} ({ord(wrong[0]) - 0xDC00:#04x}); remove them, or give encoding= "
            "(--encoding) if it is another one"
        )


# -- recognising -----------------------------------------------------------------------------------


def _wide(data: bytes) -> str | None:
    """Return which of UTF-16 and UTF-32 without a mark the bytes are."""
    sample = data[:SAMPLE]
    for name in WIDE:
        size = 4 if "32" in name else 2
        if len(data) % size or len(data) < 2 * size:
            continue
        text = _strict(sample[: len(sample) // size * size], name)
        if text is None and size == 2:  # cut within a pair of surrogates
            text = _strict(sample[: len(sample) // size * size - 2], name)
        if text and _is_plausible(text) and _strict(data, name) is not None:
            return name
    return None


def _is_plausible(text: str) -> bool:
    """True for text with ordinary white space or punctuation, and nothing unusual."""
    if text.isascii():
        return "\0" not in text and not CONTROL.search(text)
    marks = sum(text.count(mark) for mark in (" ", "\n", "\u3002", "\uff0c", "\u3001", "\uff1a"))
    odd = {"Cn", "Co", "Cs"}
    kinds = [(character, unicodedata.category(character)) for character in set(text)]
    if any(kind in odd or (kind == "Cc" and c not in "\t\n\r\f") for c, kind in kinds):
        return False
    usual = sum(text.count(c) for c, _ in kinds if _is_usual(c))
    return marks * 60 >= len(text) and usual >= 0.95 * len(text)


def _is_usual(character: str) -> bool:
    """True for the scripts that most texts are in, and their punctuation."""
    point = ord(character)
    return (
        point < 0x700
        or 0x900 <= point < 0x1000
        or 0xE00 <= point < 0xE80
        or 0x1E00 <= point < 0x2070
        or 0x3000 <= point < 0x3100
        or 0x4E00 <= point < 0xA000
        or 0xAC00 <= point < 0xD7A4
        or 0xFF00 <= point < 0xFF66
    )


def _guessed(data: bytes, source: str) -> str:
    """Decode bytes that name no encoding and are not Unicode."""
    found = list(_east_asian(data)) or list(_single_byte(data))
    texts: dict[str, str] = {}
    for name in found:
        text = _strict(data, name)
        if text is not None and text not in texts.values():
            texts[name] = text
    if len(texts) == 1:
        return next(iter(texts.values()))
    begin = next((at for at, byte in enumerate(data) if byte > 0x7F), 0)
    if not texts:
        raise DocumentError(
            f"{source} is not UTF-8 text (byte {begin:,} is {data[begin]:#04x}), and its encoding "
            "is not recognised; find out which it has and give it as encoding= (--encoding), or "
            "convert the file to UTF-8"
        )
    shown = "; ".join(
        f"as {name} it reads {_preview(text)!r}" for name, text in list(texts.items())[:5]
    )
    raise DocumentError(
        f"{source} is not UTF-8 text, and its encoding cannot be told: {shown}; give the "
        "right one as encoding= (--encoding), or convert the file to UTF-8"
    )


def _preview(text: str) -> str:
    """The characters around the first one that is not ASCII."""
    first = next((at for at, character in enumerate(text) if character > "\x7f"), 0)
    start = max(0, first - 10)
    return " ".join(text[start : start + PREVIEW].split())


def _east_asian(data: bytes) -> Iterator[str]:
    """Yield encodings of Chinese, Japanese and Korean that the bytes may be, only the likely."""
    shares = {}
    for name, (first, last) in EAST_ASIAN.items():
        text = _strict(data, name)
        if text is None:
            continue
        beyond = list(islice((c for c in text if c > "\x7f"), SAMPLE))
        common = sum(_is_common(character, name, first, last) for character in beyond)
        # such characters within words of plain letters are accents in another encoding
        inside = islice(INSIDE_A_WORD.finditer(text), SAMPLE)
        accents = 2 * sum(1 for _ in inside) >= len(beyond)
        if common >= max(COMMON * len(beyond), 2) and not accents:
            shares[name] = common / len(beyond)
    best = max(shares.values(), default=0.0)
    likely = [name for name, share in shares.items() if share > best - CLEAR]
    # Bytes that are nothing but hangul, or half kana, are seldom so by chance.
    if "cp949" in likely:
        likely = ["cp949"]
    elif "euc_jp" in likely and len(KANA.findall(data.decode("euc_jp"))) > 0.1 * len(data) / 2:
        likely = ["euc_jp"]
    yield from likely


def _is_common(character: str, name: str, first: int, last: int) -> bool:
    point = ord(character)
    if 0xFF61 <= point <= 0xFF9F or 0xE000 <= point <= 0xF8FF:  # half-width kana, private use
        return False
    if name == "cp949":  # the 2,350 syllables of KS X 1001
        both = character.encode(name)
        return 0xAC00 <= point <= 0xD7A3 and both[0] >= 0xB0 and both[1] >= 0xA1
    own = character.encode(name)
    return len(own) == 2 and first <= own[0] <= last and (name == "cp932" or own[1] >= 0x40)


def _frequent(texts: Mapping[str, str]) -> str | None:
    """Return the encoding in which a text has the frequent letters of its script; None if unclear.

    Of text in another one, half of the letters are frequent ones by chance.
    """
    shares = {}
    for name, text in texts.items():
        letters = [c for c in text if c > "\x7f"] or ["?"]
        shares[name] = max(
            (sum(c in frequent for c in letters) / len(letters) for frequent in FREQUENT), default=0
        )
    first, second = [*sorted(shares.values(), reverse=True), 0.0, 0.0][:2]
    if first < MANY_FREQUENT or first - second < CLEARLY_MORE:
        return None
    return max(shares, key=shares.__getitem__)


def _single_byte(data: bytes) -> Iterator[str]:
    """Yield encodings with one byte a character that the bytes may be."""
    from charset_normalizer import from_bytes

    first = next(at for at, byte in enumerate(data) if byte > 0x7F)
    start = data.rfind(b" ", 0, first) + 1 if first > SAMPLE // 2 else 0
    sample = data[start : start + SAMPLE]
    if len(sample) == SAMPLE and b" " in sample:
        sample = sample[: sample.rindex(b" ")]
    western = _strict(data, "cp1252")
    beyond = sum(byte > 0x7F for byte in sample)
    plain = (
        western is not None
        and not WESTERN.search(western)
        and not INSIDE_A_WORD.search(western)
        and beyond <= MOST_ACCENTS * sum(c.isalpha() for c in western[start : start + len(sample)])
    )
    found = [
        one
        for one in from_bytes(sample, cp_isolation=list(SINGLE), preemptive_behaviour=False)
        if not INSIDE_A_WORD.search(str(one))
    ]
    best = found[0] if found else None
    frequent = _frequent({one.encoding: str(one) for one in found})
    if frequent is not None and not plain:
        yield frequent
    elif best is not None and best.coherence >= 0.4 and not plain:
        yield best.encoding
    elif plain and (best is None or best.coherence < 0.7 or "cp1252" in best.could_be_from_charset):
        yield "cp1252"
    elif found:
        for one in found:
            yield from one.could_be_from_charset
    else:
        texts = ((name, _strict(sample, name)) for name in SINGLE)
        yield from (name for name, text in texts if text and not INSIDE_A_WORD.search(text))
