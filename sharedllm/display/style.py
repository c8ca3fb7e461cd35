"""Colours of levels and the style sheet of everything in HTML.

One sheet serves notebooks and pages, light and dark: it draws with the text's own colour, thinned,
and with colours that stand out from white and from black alike (Okabe and Ito's, which people who
see colours differently tell apart). A level also shows as a height and in words.
"""

from __future__ import annotations

LEVELS = ("#0072B2", "#CC79A7", "#009E73", "#D55E00", "#56B4E9", "#E69F00")

_LEVELS = "\n".join(f".sllm .l{n} {{ --c: {colour}; }}" for n, colour in enumerate(LEVELS))
SHEET = f"""
.sllm {{ --faint: color-mix(in srgb, currentColor 12%, transparent); --c: currentColor;
  line-height: 1.5; max-width: 60rem; overflow-wrap: anywhere; }}
{_LEVELS}
.sllm .dim {{ opacity: .75; font-size: .875em; font-weight: normal; }}
.sllm .answer {{ font-size: 1.2em; margin: .2em 0 .8em; white-space: pre-wrap; }}
.sllm figure {{ margin: .8em 0; }}
.sllm figcaption {{ margin-bottom: .2em; }}
.sllm h2, .sllm h3 {{ font-size: 1em; margin: 1.4em 0 .4em; }}
.sllm a {{ color: inherit; }}
.sllm a:focus-visible, .sllm summary:focus-visible {{ outline: 3px solid #E69F00;
  outline-offset: 2px; }}
.sllm .lanes, .sllm .bar, .sllm .row {{ position: relative; }}
.sllm .lanes a {{ position: absolute; transform: translateX(-50%); font-size: .8em;
  line-height: 1.35em; padding: 0 .3em; text-decoration: none; border-bottom: 2px solid var(--c); }}
.sllm .bar {{ height: 1.6em; background: var(--faint); border-radius: 3px; overflow: clip;
  overflow-clip-margin: 5px; }}
.sllm .bar > * {{ position: absolute; bottom: 0; min-width: 4px; background: var(--c); }}
.sllm .bar .chunk {{ min-width: 1px; width: 1px; height: 100%; background: var(--faint); }}
.sllm .bar .coarse {{ height: 30%; opacity: .6; min-width: 2px; }}
.sllm .bar .fine {{ height: 100%; scroll-margin-top: 6em; }}
.sllm .bar .fine:target {{ outline: 3px solid currentColor; }}
.sllm .axis {{ display: flex; justify-content: space-between; }}
.sllm .key {{ display: inline-block; width: .8em; height: .8em; background: var(--c);
  margin: 0 .3em 0 .8em; border-radius: 2px; }}
.sllm .key.coarse {{ height: .3em; opacity: .6; }}
.sllm ol.cites {{ list-style: none; margin: .4em 0; padding: 0; }}
.sllm .cites li {{ padding: .35em 0; border-top: 1px solid var(--faint); }}
.sllm .cites .begins {{ display: block; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; }}
.sllm .number {{ display: inline-block; min-width: 1.5em; text-align: center; font-weight: bold;
  text-decoration: none; border-radius: 3px; border: 2px solid var(--c); margin-right: .4em;
  line-height: 1.35em; }}
.sllm .text {{ white-space: pre-wrap; border-left: 3px solid var(--faint); padding-left: .8em; }}
.sllm .text > .around {{ opacity: .75; }}
.sllm .text mark {{ color: inherit; padding: .1em 0; -webkit-box-decoration-break: clone;
  box-decoration-break: clone; background: color-mix(in srgb, var(--c) 22%, transparent);
  scroll-margin-top: 5em; }}
.sllm .text mark:target {{ background: color-mix(in srgb, var(--c) 42%, transparent); }}
.sllm .text details {{ margin: .4em 0; opacity: .85; }}
.sllm summary {{ cursor: pointer; font-size: .875em; padding: .25em 0; }}
.sllm mark .number {{ margin: 0 .3em; }}
.sllm .page {{ display: block; border-top: 1px dashed currentColor; text-align: right;
  margin-top: .4em; }}
.sllm .left {{ text-align: center; }}
.sllm .row {{ height: 1.6em; margin-bottom: 2px; }}
.sllm .node {{ position: absolute; height: 100%; box-sizing: border-box; overflow: hidden;
  text-align: center; text-decoration: none; font-size: .8em; line-height: 1.8em;
  border-radius: 2px; border: 1px solid color-mix(in srgb, currentColor 25%, transparent); }}
.sllm .node.fine {{ border: 2px solid var(--c); font-weight: bold; line-height: 1.6em;
  background: color-mix(in srgb, var(--c) 28%, transparent); }}
.sllm .node.coarse {{ border: 2px dashed var(--c); line-height: 1.6em; }}
"""
PAGE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; font: 1rem/1.5 system-ui, sans-serif;
  background: #fff; color: #1b1f24; }
h1 { font-size: 1.4rem; margin: .6em 0 .2em; overflow-wrap: anywhere; }
section + section { border-top: 2px solid currentColor; margin-top: 3rem; }
nav ul { padding-left: 1.2em; }
footer { margin-top: 3rem; opacity: .75; font-size: .875rem; }
@media (prefers-color-scheme: dark) { body { background: #14171a; color: #e6e6e6; } }
@media print { details:not([open]) { display: none; } }
"""


def colour(level: int) -> str:
    """The colour of a tree level; levels beyond the sixth share the last."""
    return LEVELS[min(level, len(LEVELS) - 1)]


def level_class(level: int) -> str:
    """The style sheet's class of a tree level."""
    return f"l{min(level, len(LEVELS) - 1)}"
