// Passages of an answer, best first: the page's first citizens.

import { counted, el, fill, number, tint } from "./dom.js";
import { documentOf } from "./state.js";
import { flowing, marked, nameOf, oneLine, sectionOf, Text } from "./text.js";

/** The passages of a turn with their ranks, as an ordered list. */
export function passageList(turn, words, onOpen) {
  return el(
    "ol",
    { class: "passages" },
    ranked(turn).map((one) => passageItem(one, turn, words, onOpen)),
  );
}

export const ranked = (turn) => turn.citations.map((one, index) => ({ ...one, rank: index + 1 }));

function passageItem(one, turn, words, onOpen) {
  const page = one.end_page ? `pages ${one.page} to ${one.end_page}` : one.page ? `page ${number(one.page)}` : "";
  const found = one.sought ? `found by “${oneLine(one.sought)}”` : "";
  const several = new Set(turn.citations.map((other) => other.document)).size > 1;
  const facts = [several ? nameOf(one) : "", sectionOf(one.section), page, found].filter(Boolean);
  if (!facts.length) facts.push(nameOf(one)); // one document without sections and pages
  return el(
    "li",
    { class: `passage ${tint(one.level)}`, "data-rank": one.rank, tabindex: "-1", onclick: (event) => event.target.closest("button") || String(getSelection()) || onOpen(one.rank) },
    el("button", { class: "rank", "aria-label": `Open passage ${one.rank} in its document`, title: "Open in the document", onclick: () => onOpen(one.rank) }, String(one.rank)),
    el(
      "div",
      { class: "inside" },
      el("p", { class: "place" }, el("bdi", { class: "of" }, facts[0]), facts.slice(1).map((fact) => el("bdi", { class: "quiet" }, fact)), el("span", { class: "score quiet", title: "The score of its best node" }, one.score.toFixed(2))),
      el("blockquote", { dir: "auto" }, wordsOfPassage(one, words)),
      strip(one, turn),
    ),
  );
}

/** The text of a passage: its matching sentence underlaid, the answer's words in it bold. */
function wordsOfPassage(one, words) {
  const text = new Text(flowing(one.text.replaceAll("\f", "\n")), one.char_start);
  const bold = (part) => marked(compact(part), words).map(([piece, is]) => (is ? el("b", {}, piece) : piece));
  if (one.match_start === null || one.match_end === null) return bold(text.cut(text.start, text.end).trim());
  const match = text.cut(one.match_start, one.match_end);
  return [
    bold(text.cut(text.start, one.match_start).trimStart()),
    el("mark", { class: "match" }, bold(match.trim())),
    bold((match.match(/\s+$/)?.[0] ?? "") + text.cut(one.match_end, text.end).trimEnd()),
  ];
}

/** Without blank lines, and without line ends in the middle of sentences: passages are short. */
const compact = (text) => text.replace(/\n\s*\n/g, "\n").replace(/([^\n.!?:;"”’])\n(?=\p{Ll})/gu, "$1 ");

/** Where it lies in its document, beside the other passages. */
function strip(one, turn) {
  const length = documentOf(one.document)?.characters;
  if (!length) return null;
  const others = ranked(turn).filter((other) => other.document === one.document && other.rank !== one.rank);
  const at = ((100 * one.char_start) / length).toFixed(1);
  return el(
    "div",
    { class: "strip", role: "img", "aria-label": `It lies ${at} % into the document`, title: `characters ${number(one.char_start)} to ${number(one.char_end)} of ${number(length)}` },
    [...others, one].map((other) =>
      el("span", {
        class: other === one ? `spot ${tint(other.level)}` : "spot other",
        place: { left: `min(${((100 * other.char_start) / length).toFixed(3)}%, 100% - 6px)`, width: `${((100 * (other.char_end - other.char_start)) / length).toFixed(3)}%` },
      }),
    ),
  );
}

/** What was read for an answer, in words. */
export function summary(turn) {
  if (!turn.citations.length) return [];
  const documents = new Map(turn.citations.map((one) => [one.document, nameOf(one)]));
  const of = documents.size > 1 ? counted(documents.size, "document") : [...documents.values()][0];
  if (turn.abstains) return [`The closest ${counted(turn.citations.length, "passage")} of ${of}`];
  return [`${counted(turn.citations.length, "passage")} of ${of}`];
}

// -- trees ----------------------------------------------------------------------------------------

const WRITTEN = 0.07; // of a row: narrower nodes do not say their score

/** The trees that hold passages, a row a level, each node with its score: darker is better. */
export function treeList(trees, turn, onPlace) {
  if (!trees.length) return el("p", { class: "quiet" }, "No tree holds a passage of this answer.");
  const several = new Set(trees.map((tree) => tree.document)).size > 1;
  return el(
    "div",
    { class: "trees" },
    el("p", { class: "quiet" }, "The nodes of the chunks that hold passages, each with its score: the stronger the shade, the better; what was selected is framed. A node opens its place in the document."),
    trees.map((tree) => treeFigure(tree, turn, several, onPlace)),
  );
}

function treeFigure(tree, turn, several, onPlace) {
  const root = tree.nodes[0];
  const length = Math.max(1, root.end - root.start);
  const scores = tree.nodes.map((node) => node.score);
  const [worst, best] = [Math.min(...scores), Math.max(...scores)];
  const rows = [];
  for (const node of tree.nodes) (rows[node.level] ??= []).push(node);
  const ranks = ranked(turn).filter((one) => one.document === tree.document && one.char_start < root.end && one.char_end > root.start);
  const named = ranks.length ? `passage${ranks.length > 1 ? "s" : ""} ${ranks.map((one) => one.rank).join(", ")}` : "";
  return el(
    "figure",
    {},
    el("figcaption", { class: "quiet" }, [several ? tree.name : "", `characters ${number(root.start)} to ${number(root.end)}`, named].filter(Boolean).join(" · ")),
    rows.map((row, level) =>
      el(
        "div",
        { class: `treerow ${tint(level)}`, role: "group", "aria-label": `level ${level}` },
        row.map((node) => {
          const share = (node.end - node.start) / length;
          const shade = best > worst ? (node.score - worst) / (best - worst) : 0;
          const words = `level ${level}, score ${node.score.toFixed(2)}, characters ${number(node.start)} to ${number(node.end)}${node.chosen ? ", selected" : ""}`;
          return el(
            "button",
            { class: `node ${node.chosen ? "chosen" : ""}`, title: words, "aria-label": words, place: { left: `${(100 * (node.start - root.start)) / length}%`, width: `${100 * share}%`, "--shade": `${Math.round(3 + 30 * shade)}%` }, onclick: () => onPlace(tree.document, node) },
            share >= WRITTEN ? brief(node.score) : "",
          );
        }),
      ),
    ),
  );
}

const brief = (score) => (Math.abs(score) < 10 ? score.toFixed(2) : Math.abs(score) < 1000 ? score.toFixed(1) : score.toPrecision(2));
