"""Flags and whole numbers are taken as pydantic's lax mode takes them, and nothing else is."""

import msgspec
import pytest

from server.lax import Flag, Whole, lax_decoder

FLAGS = {
    True: """true 1 1.0 "true" "TRUE" "t" "Yes" "y" "oN" "1" """,
    False: """false 0 0.0 -0.0 "false" "F" "off" "n" "No" "0" """,
}
NO_FLAGS = """2 -1 1.5 5.0 "" "2" "1.0" "\\u0020true" "ja" [] {} [true] 1e400 "\u212a" """
WHOLES = {
    0: """0 0.0 -0.0 "0" "-0" "00" "0.0" false""",
    5: """5 5.0 "5" "5.0" "5.00" "+5" "0005" "\\u00205\\u0020" "\\t5\\n" "\\u00a05.0" """,
    -5: """-5 -5.0 "-5" "-5.0" """,
    1: """1 1.0 true "1" """,
    1000: """1e3 "1_000" "1_0_0_0.0" """,
}
NO_WHOLES = """5.5 "5.5" "" "5." ".0" "5e1" "0x5" "1__0" "_1" "1_" "+-5" "-" "5.0_0" "true" "on"
    [] {} [5] 1e19 1e400 -1e400 "\u0665" "\uff11" "\\u001c5" """


class Asked(msgspec.Struct):
    """Every kind of field."""

    flag: Flag | None = None
    whole: Whole | None = None
    wholes: list[Whole] = []


DECODER = lax_decoder(Asked)


def asked(field: str, value: str) -> Asked:
    return DECODER.decode(f'{{"{field}":{value}}}')


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(value, wanted) for wanted, found in FLAGS.items() for value in found.split()],
)
def test_a_flag(value: str, wanted: bool) -> None:
    assert asked("flag", value).flag is wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(value, wanted) for wanted, found in WHOLES.items() for value in found.split()],
)
def test_a_whole_number(value: str, wanted: int) -> None:
    found = asked("whole", value).whole
    assert (found, type(found)) == (wanted, int)


@pytest.mark.parametrize(
    ("field", "value"),
    [("flag", value) for value in NO_FLAGS.split()]
    + [("whole", value) for value in NO_WHOLES.split()]
    + [("whole", "9" * 5000), ("whole", f'"{"9" * 5000}"')],
)
def test_all_else_is_refused_where_it_stands(field: str, value: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{field}`$"):
        asked(field, value)


def test_null_is_a_field_s_default() -> None:
    assert DECODER.decode(b'{"flag":null,"whole":null}') == Asked()


def test_a_number_in_a_list_is_named_by_its_place() -> None:
    assert asked("wholes", '[1, "2", 3.0]').wholes == [1, 2, 3]
    with pytest.raises(msgspec.ValidationError, match=r"wholes\[1\]"):
        asked("wholes", "[1, 2.5]")


def test_the_schema_tells_of_plain_types() -> None:
    fields = msgspec.json.schema(Asked)["$defs"]["Asked"]["properties"]
    assert fields["flag"]["anyOf"] == [{"type": "boolean"}, {"type": "null"}]
    assert fields["whole"]["anyOf"] == [{"type": "integer"}, {"type": "null"}]
