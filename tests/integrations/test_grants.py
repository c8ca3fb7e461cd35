"""Tickets: only what a retriever returned is read without its text."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from sharedllm_integrations import grants
from sharedllm_integrations.grants import is_valid, redeemed, ticket
from sharedllm_integrations.handles import handle_id, opening
from sharedllm_integrations.turns import Given, Turn

HANDLE = handle_id("a text", "")


def user(text: str) -> Turn:
    return Turn(role="user", parts=(text,))


def test_a_ticket_becomes_the_handle_that_it_grants() -> None:
    name = ticket("", HANDLE)
    turn, granted = redeemed(user(f"Read {opening(name)} now"), "")
    assert turn == user(f"Read {opening(HANDLE)} now")
    assert granted == {HANDLE}


def test_a_ticket_of_a_text_becomes_the_text() -> None:
    given = Given(text="a text", title="A title")
    turn, granted = redeemed(user(f"Read {opening(ticket('', given))}!"), "")
    assert turn.parts == ("Read ", given, "!")
    assert not granted


def test_every_retrieval_has_its_own_ticket() -> None:
    assert ticket("", HANDLE) != ticket("", HANDLE)


@pytest.mark.parametrize("name", [HANDLE, "0" * 32])
def test_what_somebody_typed_is_no_ticket(name: str) -> None:
    ticket("", HANDLE)
    turn, granted = redeemed(user(opening(name)), "")
    assert turn == user(opening(name))
    assert not granted


def test_a_ticket_is_for_one_tenant() -> None:
    name = ticket("one", HANDLE)
    assert is_valid(name, "one")
    assert not is_valid(name, "another")
    assert redeemed(user(opening(name)), "another") == (user(opening(name)), set())


def test_the_words_of_a_model_grant_nothing() -> None:
    turn = Turn(role="assistant", parts=(opening(ticket("", HANDLE)),))
    assert redeemed(turn, "") == (turn, set())


def test_texts_are_held_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "_tickets", OrderedDict())
    monkeypatch.setattr(grants, "_held", 0)
    monkeypatch.setattr(grants, "MOST_CHARACTERS", 10)
    first = ticket("", Given(text="12345678"))
    assert is_valid(first, "")
    last = ticket("", Given(text="x" * 1000))
    assert is_valid(last, "")
    assert not is_valid(first, "")
