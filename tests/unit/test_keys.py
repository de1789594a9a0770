"""Laws of API keys."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from market import keys

SECRET_BYTES = st.binary(min_size=32, max_size=32)
PEPPER = bytes(range(32))


@given(SECRET_BYTES)
def test_a_made_key_is_well_formed(random_bytes: bytes) -> None:
    """Every 32 bytes make a key of fixed length that passes its own checksum."""
    secret = keys.new_secret(random_bytes)

    assert len(secret) == keys.KEY_CHARS
    assert keys.well_formed(secret)


@given(SECRET_BYTES, st.integers(0, keys.KEY_CHARS - 1), st.characters())
def test_a_mistyped_key_is_noticed(random_bytes: bytes, place: int, typed: str) -> None:
    """Changing any single character breaks prefix, alphabet or checksum."""
    secret = keys.new_secret(random_bytes)
    wrong = secret[:place] + typed + secret[place + 1 :]

    assert keys.well_formed(wrong) == (wrong == secret)


@given(st.text())
def test_no_text_makes_the_check_stumble(text: str) -> None:
    """Surrogates, emoji and megabytes are answered with no, never with an exception."""
    assert not keys.well_formed(text)
    assert not keys.well_formed(keys.PREFIX + text)


@given(SECRET_BYTES, SECRET_BYTES)
def test_different_bytes_make_different_keys(one: bytes, two: bytes) -> None:
    """The encoding loses nothing."""
    assert (keys.new_secret(one) == keys.new_secret(two)) == (one == two)


def test_the_hash_depends_on_key_and_pepper_and_hides_both() -> None:
    """Another pepper gives another hash: a stolen table says nothing by itself."""
    secret = keys.new_secret(bytes(32))

    hashed = keys.key_hash(secret, PEPPER)

    assert hashed == keys.key_hash(secret, PEPPER)
    assert hashed != keys.key_hash(secret, PEPPER[::-1])
    assert hashed != keys.key_hash(secret[:-1] + "x", PEPPER)
    assert len(hashed) == 32


def test_a_shown_prefix_does_not_give_the_key_away() -> None:
    """Lists show four characters of the 43."""
    secret = keys.new_secret(bytes(range(32)))

    assert secret.startswith(keys.shown_prefix(secret))
    assert len(keys.shown_prefix(secret)) == len(keys.PREFIX) + 4
