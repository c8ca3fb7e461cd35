"""HTML: what a browser shows, in time linear in the page's length."""

from __future__ import annotations

import pytest

from sharedllm.errors import DocumentError
from sharedllm.text.loaders.html import visible


def shown(page: str) -> str:
    return visible(page, "page.html").text


@pytest.mark.parametrize(
    "style",
    [
        "display:none",
        "DISPLAY : NONE",
        "display:/* a */none !important",
        "d\\69splay: none",
        "color: red; display: none;;",
        "display: block; display: none",
        "visibility: hidden",
        "visibility:collapse",
        "content-visibility:hidden",
        "opacity: 0",
        "opacity:0.0%",
        "font-size: 0px",
        "font: 0/1 serif",
    ],
)
@pytest.mark.parametrize(
    "page",
    [
        '<p>one<p style="{}">two<p>three',
        "<P>one</P><P STYLE='{}'>two</P><P>three</P>",
        "<style>.h {{ {} }}</style><p>one<p class='a h'>two<p>three",
        "<p>one<p id=h>two<p>three<style>@media screen {{ #h {{ {} }} }}</style>",
        "<style>u {{ {} }}</style><p>one<p><u>two</u><p>three",
        "<style>p.h, i {{ {} }}</style><p>one<p class=h>two <b>bold</b><p>three",
        "<style>.m > .h {{ {} }}</style><p>one<div class=m><p class=h>two</div><p>three",
        "<style><!-- .m .h {{ {} }} --></style><p>one<div class=m><u><b class=h>two</b></u></div>"
        "<p>three",
    ],
)
def test_what_styles_hide(style: str, page: str) -> None:
    assert shown(page.format(style)) == "one\n\nthree"


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<style>p { display: none } p.s { display: block }</style><p>1<p class=s>2", "2"),
        ("<style>.h { display: none !important }</style><p class=h style='display:block'>1<p>2",
         "2"),
        ("<style>.h { display: none }</style><p class=h style='display:block'>1", "1"),
        ("<style>@media print { p { display: none } }</style><p>1", "1"),
        ("<style media=print>p { display: none }</style><p>1", "1"),
        ("<style>@media (max-width: 600px) { p { display: none } }</style><p>1", "1"),
        ("<style>p:hover, p::before { display: none }</style><p>1", "1"),
        ("<style>.m > .h { display: none }</style><div class=m><b><i class=h>1</i></b></div>", "1"),
        ("<div style='visibility:hidden'>1<b style='visibility:visible'>2</b></div>", "2"),
        ("<div style='font-size:0'>1<b style='font-size:9px'>2</b></div>", "2"),
        ("<div style='display:none'>1<b style='display:block'>2</b></div>3", "3"),
        ("<p hidden>1<p hidden=until-found>2<p hidden style='display:block'>3", "2\n\n3"),
        ("<p aria-hidden=true>1</p><template>2</template><noscript>3</noscript>", "1"),
        ("<details><summary>1</summary>2</details><dialog>3</dialog><dialog open>4</dialog>",
         "1\n\n2\n\n4"),
        ("<p style='display:none'>1</p>2", "2"),
        ("<p>1<div popover>2</div><div popover style='display:block'>3</div>", "1\n\n3"),
        ("<p>1<!-- 2 --!>3", "13"),
        ("<script><!-- <script> 1 </script> 2 --></script>3", "3"),
        ("<p>1<p style='font-size:0'>2<b style='font-size:1em'>3</b><b style='font-size:1px'>4</b>",
         "1\n\n4"),
        ("<p style='visibility:hidden;visibility:inherit'>1<p style='display:none;display:unset'>2",
         "1\n\n2"),
        ("<p>1<p style='display:none;display:nope'>2<p style='display:none;display:block flow'>3",
         "1\n\n3"),
        ("<style type='text/less'>p { display: none }</style><p>1", "1"),
        ("<style>@media (width >= 9px) { b { display: none } }</style><p>1<b>2</b>", "1"),
        ("<style>@supports not (display: grid) { p { display: none } }</style><p>1", "1"),
        ("<style>.Hide { display: none }</style><p>1<p class=hIDE>2", "1"),
        ("<!-- a --><!doctype html><style>.Hide { display: none }</style><p class=hide>1", "1"),
        ("<h1 hidden>1<h2>2</h2>", "2"),
        ("<button hidden>1<button>2</button>", "2"),
        ("<a hidden>1<a>2</a>", "2"),
        ("<table><caption hidden>1<thead hidden><tr><td>2<tbody><tr><td>3</table>", "3"),
        ("<tr hidden><td hidden>1</td></tr>2", "1\n2"),
        ("<svg><title/><g hidden/><text>1</text></svg><p>2", "1\n\n2"),
        ("<svg hidden><title>1<p>2", "2"),
        ("<div><template shadowrootmode=open>1</template></div><template>2</template>", "1"),
        ("<p>1<p\xa0style='display:none'>2", "12"),
        ("<div style='display:none'><p>1</div>2", "2"),
        ("<!-- 1 --->2<!doctype x>3<?php 4 ?>5</6>7", "2357"),
        ("<script>1</script>2<iframe>3</iframe><object>4</object><video>5</video>", "2"),
        ("<svg><title>1</title><text>2</text></svg><math><mi>x</mi><annotation>3</math>", "2x"),
        ("1 < 2 &amp; &eacute; &#233; &#xE9; &#99999999999; &no;", "1 < 2 & é é é \ufffd &no;"),
    ],
)  # fmt: skip
def test_what_is_shown(page: str, text: str) -> None:
    assert shown(page) == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<table><tr><th>Site<th>2021<th>2022<tr><td>Bramley<td><td>951</table>",
         "Site | 2021 | 2022\nBramley |  | 951"),
        ("<table><tr><td rowspan=2>A<td>1<tr><td>2</table>", "A | 1\n | 2"),
        ("<table><tr><td colspan=2>A<td>1<tr><td>2<td>3<td>4</table>", "A |  | 1\n2 | 3 | 4"),
        ("<table><tr><td><p>a</p><p>b</p></td><td>c</td></tr></table>after", "a b | c\n\nafter"),
        ("<table><tr><td><table><tr><td>in<td>side</table><td>out</table>", "in | side | out"),
        ("<div><table><tr><td>1</div>2<td>3</table>", "12 | 3"),
        ("<ul><li>one<ul><li>sub</ul><li>two</ul>", "one\n\nsub\n\ntwo"),
        ("<dl><dt>a<dd>b<dt>c</dl>", "a\nb\nc"),
        ("<p>un<b>closed<p>next</b> more", "unclosed\n\nnext more"),
        ("a<br>b<br><br><br>c", "a\nb\n\nc"),
        ("<pre>\n a\n  b\n</pre>c", " a\n  b\n\nc"),
        ("<select><option>a<option>b</select>", "a\nb"),
        ("a<b> b</b> <i>c </i>d", "a b c d"),
    ],
)  # fmt: skip
def test_blocks_tables_and_lists(page: str, text: str) -> None:
    assert shown(page) == text


def test_titles_and_xhtml() -> None:
    page = '<?xml version="1.0"?><html><head><title/><script src="x"/></head><body><a id="x"/>'
    assert shown(page + "<p>t<![CDATA[a<b]]></p></body></html>") == "ta<b"
    assert visible("<title>A &amp; B</title><svg><title>C</title></svg>x", "").title == "A & B"


MANY = 20_000
HOSTILE = {
    "scripts in comments": "<script><!--<script></script>" * 100_000,
    "drawings without end": "<svg></math>" * 50_000,
    "depth": "<div>" * MANY,
    "depth with end tags": "<span>" * MANY + "</li>x" * MANY,
    "formats": "".join(f"<b id={i}>" for i in range(MANY)) + "<p>x" * MANY,
    "misnested": "<i><div></i>" * MANY,
    "tables": "<table><tr><td>" * MANY,
    "lists": "<ul><li>" * MANY,
    "cells": "<table><tr><td>" + "<span>" * MANY + "<td>" * MANY,
    "spans": "<table>" + "<tr><td rowspan=60000 colspan=60000>x" * 2_000,
    "attributes": "<p " + " ".join(f"a{i}=1" for i in range(MANY)) + ">",
    "classes": "<p class='" + " ".join(f"c{i}" for i in range(MANY)) + "'>",
    "quotes": "<a b='\">" * MANY,
    "open comments": "<!--" * MANY,
    "open tags": "<a b" * MANY,
    "angles": "<" * MANY * 10,
    "entities": "&amp;&eacute;&nosuch;&#" * MANY,
    "digits": "&#" + "9" * 100_000 + ";",
    "styles": "".join(f"<p style='display:none;x:{i}'>x" for i in range(2_000)),
    "braces": "<style>" + "@media all{p{" * 5_000 + "display:none" + "(" * MANY + "</style>x",
    "selectors": "<style>" + "".join(f".a{i} .b > p{{display:none}}" for i in range(2_000))
    + "</style>" + "<p class=a1>x" * 1_000,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(20)
def test_hostile_pages_end(name: str) -> None:
    assert shown("<p>before</p>" + HOSTILE[name]).startswith("before")


@pytest.mark.timeout(60)
def test_too_many_rules_are_refused() -> None:
    rules = "".join(f".a{i} p{{display:none}}" for i in range(3_000))
    with pytest.raises(DocumentError, match="too many style rules"):
        shown(f"<style>{rules}</style>" + "<p>x" * 3_000)
    with pytest.raises(DocumentError, match="style rules of more than"):
        shown(f"<style>/*{'x' * (4 << 20)}*/ p{{display:none}}</style>x")
