// Words and characters: the server counts Unicode characters, JavaScript counts halves of some.

/** A text whose characters are counted as the server counts them; its first one is number `start`. */
export class Text {
  constructor(text, start = 0) {
    this.start = start;
    this.signs = /[\ud800-\udfff]/.test(text) ? Array.from(text) : text;
    this.end = start + this.signs.length;
  }

  /** The characters [from, to), as far as they are here. */
  cut(from, to) {
    const part = this.signs.slice(Math.max(0, from - this.start), Math.max(0, to - this.start));
    return typeof part === "string" ? part : part.join("");
  }
}

const LONG_LINE = 50; // characters from which on a line end was made by a line breaker
const OWN_LINE = /^(?:[\s\-*+•#>|=`\d]|$)/; // a list, a table, a heading, an indented line

/** The text with line ends inside paragraphs as spaces, exactly as long: books have short lines.
 *  The same rule as that of notebooks and terminals (sharedllm/display/plain.py). */
export function flowing(text) {
  const lines = text.split("\n");
  const lengths = lines.map((line) => line.length).filter((length) => length >= LONG_LINE).sort((a, b) => a - b);
  const width = lengths.length ? lengths[Math.floor((lengths.length * 9) / 10)] : 0;
  let out = lines[0];
  for (let at = 1; at < lines.length; at += 1) {
    const [before, line] = [lines[at - 1], lines[at]];
    const word = line.split(" ", 1)[0].length;
    const full = before.length >= LONG_LINE && before.length <= width + 2 && width + 2 < before.length + 4 + word;
    const goesOn = before.length >= LONG_LINE && /\p{L},?$/u.test(before) && /^\p{Ll}/u.test(line);
    out += ((full || goesOn) && !OWN_LINE.test(line) ? " " : "\n") + line;
  }
  return out;
}

export const oneLine = (text) => text.replace(/[\n\f]+/g, " ").replace(/\s+/g, " ").trim();

const WORD = /[\p{L}\p{N}]+(?:['’\-.,][\p{L}\p{N}]+)*/gu;
const EMPTY = new Set(
  ("a an and are as at be been but by can could did do does for from had has have he her him his how i if in into is it its " +
    "may me more most my no not of on or our own said say says shall she should so some such than that the their them then " +
    "there these they this those to up us was we were what when where which while who whom whose why will with would you your")
    .split(" "),
);

/** The words of an answer that carry its meaning, as they are compared. */
export function wordsOf(answer) {
  const found = (answer.match(WORD) ?? []).map(fold);
  return new Set(found.filter((word) => !EMPTY.has(word) && (word.length > 1 || /\p{N}/u.test(word))));
}

export const fold = (word) => word.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().replace(/['’]s$/, "");

/** Cut a text into [part, true if it is one of `words`]. */
export function marked(text, words) {
  const out = [];
  let at = 0;
  if (words?.size) {
    for (const found of text.matchAll(WORD)) {
      if (!words.has(fold(found[0]))) continue;
      if (found.index > at) out.push([text.slice(at, found.index), false]);
      out.push([found[0], true]);
      at = found.index + found[0].length;
    }
  }
  if (at < text.length) out.push([text.slice(at), false]);
  return out;
}

/** Cut a text into [part, true if it is one of `parts`]. */
export function cutBy(text, parts) {
  let out = [[text, false]];
  for (const part of [...parts].sort((a, b) => b.length - a.length)) {
    if (!part) continue;
    out = out.flatMap(([piece, is]) => {
      if (is || !piece.includes(part)) return [[piece, is]];
      return piece.split(part).flatMap((rest, n) => (n ? [[part, true], [rest, false]] : [[rest, false]])).filter(([p]) => p);
    });
  }
  return out;
}

/** The deepest section of a path; a number alone says what it numbers. */
export function sectionOf(path) {
  const title = oneLine((path ?? "").split(" > ").at(-1) ?? "");
  return /^\d+$/.test(title) ? `section ${title}` : title;
}

const escaped = (text) => text.replace(/[\\`*_[\]<>]/g, "\\$&");

/** A turn as Markdown: question, answer, the passages quoted with their places. */
export function markdown(turn) {
  const out = [`**${escaped(oneLine(turn.question))}**`, "", escaped(turn.answer), ""];
  turn.citations.forEach((one, index) => {
    out.push(...quoted(one).split("\n").map((line) => `> ${line}`.trimEnd()), ">");
    out.push(`> ${index + 1}. ${escaped(placeOf(one))}`, "");
  });
  return `${out.join("\n").trim()}\n`;
}

function quoted(one) {
  const text = new Text(flowing(one.text.replaceAll("\f", "\n")), one.char_start);
  if (one.match_start === null) return escaped(text.cut(text.start, text.end).trim());
  const [from, to] = [one.match_start, one.match_end];
  const [before, match, after] = [text.cut(text.start, from), text.cut(from, to), text.cut(to, text.end)];
  return `${escaped(before)}${match.trim() ? `**${escaped(match.trim())}**` : ""}${/\s$/.test(match) ? " " : ""}${escaped(after)}`.trim();
}

/** Where a passage stands, in words. */
export function placeOf(one) {
  const pages = one.end_page ? `pages ${one.page} to ${one.end_page}` : one.page ? `page ${one.page}` : "";
  const characters = `characters ${one.char_start.toLocaleString("en-US")} to ${one.char_end.toLocaleString("en-US")}`;
  return [nameOf(one), sectionOf(one.section), pages, characters].filter(Boolean).join(", ");
}

export const nameOf = (one) => oneLine(one.title || one.source || one.document || "document");
