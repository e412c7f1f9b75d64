"""Bodies: which texts are found, what is refused, and that replacing changes nothing else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.body import UnreadableBody, is_utf8
from guard.content import check_headers
from guard.errors import ConfigError
from guard.fields import compile_fields
from guard.json_body import parse


def texts(body: str | bytes, *fields: str) -> list[str]:
    raw = body.encode() if isinstance(body, str) else body
    return parse(raw, compile_fields(fields or None)).texts


def refusal(body: str | bytes, *fields: str) -> tuple[str, int]:
    with pytest.raises(UnreadableBody) as caught:
        texts(body, *fields)
    return caught.value.kind, caught.value.status


@pytest.mark.parametrize(
    ("fields", "tree"),
    [
        (["text"], {"text": {}}),
        (["inputs.text", "inputs.pair"], {"inputs": {"text": {}, "pair": {}}}),
        (["inputs.text", "inputs"], {"inputs": {}}),
        (["inputs", "inputs.text", "inputs.text.x"], {"inputs": {}}),
        (iter(("a.b.c", "a.d")), {"a": {"b": {"c": {}}, "d": {}}}),
    ],
)
def test_fields_are_compiled(fields: Any, tree: Any) -> None:
    compiled = compile_fields(fields)
    assert compiled is not None
    assert compiled.tree == tree
    assert compiled.queries == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("text", r"fields='text' is one string; write fields=\['text'\]"),
        ([], "scans nothing"),
        ([""], "empty step"),
        (["inputs..text"], "empty step"),
        (["text."], "empty step"),
        ([1], r"fields=\[1\] is no list of paths"),
        (["text", None], "is no list of paths"),
        ([["text"]], "is no list of paths"),
        (b"text", "is no list of paths"),
        (5, "fields=5 is no list of paths"),
        (["$.a["], "is no JSONPath"),
        (["$.a | $.b"], "is no JSONPath"),
        (["$.a", "b"], r"write all of them as JSONPath"),
    ],
)
def test_wrong_fields_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compile_fields(fields)


def test_without_fields_every_string_is_found() -> None:
    document = parse(
        b'{"a": "1", "b": [2, "3", null, {"c": "4", "d": [["5"]]}], "e": true}',
        compile_fields(None),
    )
    assert document.texts == ["1", "3", "4", "5"]
    assert document.keys == ["a", "b", "c", "d", "e"]
    assert texts('"alone"') == ["alone"]
    assert texts(" [] ") == texts("5") == texts("null") == []


def test_fields_are_followed_through_objects_and_lists() -> None:
    body = '{"x": "no", "inputs": [{"text": "1", "no": "no"}, {"text": ["2", "3"]}], "y": ["no"]}'
    assert texts(body, "inputs.text") == ["1", "2", "3"]
    assert texts('[[{"text": "1"}], []]', "text") == ["1"]
    assert texts('{"b": "2", "a": {"x": "1"}}', "a.x", "b") == ["2", "1"]


def test_below_a_field_every_string_is_found() -> None:
    document = parse(
        b'{"text": {"deep": [{"er": "1"}], "n": null}, "no": {"no": 5}}', compile_fields(["text"])
    )
    assert document.texts == ["1"]
    assert document.keys == ["deep", "er", "n"]
    assert texts('{"text": null}', "text") == texts('{"text": []}', "text") == []


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"inputs": {"text": "1"}}',
        '{"Text": "1"}',
        '[{"text": "1"}, {}]',
        '[{"text": "1"}, "2"]',
        '"text"',
        "5",
        "null",
    ],
)
def test_a_missing_field_is_named(body: str) -> None:
    assert refusal(body, "text") == ("FieldMissing", 422)
    with pytest.raises(UnreadableBody, match=r"no field 'text'.*full path.*`fields`"):
        texts(body, "text")


def test_a_missing_field_is_named_with_its_path() -> None:
    with pytest.raises(UnreadableBody, match=r"no field 'inputs\.text'"):
        texts('{"inputs": {}}', "inputs.text")
    assert refusal('{"inputs": null}', "inputs.text") == ("FieldMissing", 422)
    assert refusal('{"a": "1"}', "a", "b") == ("FieldMissing", 422)


@pytest.mark.parametrize(
    "body",
    [
        '{"text": 5}',
        '{"text": [101, 2024]}',
        '{"text": ["a", true]}',
        '{"text": {"input_ids": [101, 2024]}}',
        '{"text": {"text": "a", "input_ids": [[1.0]]}}',
        '{"text": [{"a": {"b": 5}}]}',
    ],
)
def test_numbers_in_place_of_text_are_refused(body: str) -> None:
    assert refusal(body, "text") == ("FieldNotText", 422)
    with pytest.raises(UnreadableBody, match=r"The field 'text' holds a number"):
        texts(body, "text")


def test_numbers_beside_a_field_are_no_hindrance() -> None:
    assert texts('{"n": 5, "inputs": {"text": "1", "top_k": 5}}', "inputs.text") == ["1"]


@pytest.mark.parametrize(
    "body",
    [
        '{"a": 1, "a": 2}',
        '{"a": 1, "\\u0061": 2}',
        '[{"x": {"a": "1", "b": 1, "a": "1"}}]',
    ],
)
def test_duplicate_keys_are_refused(body: str) -> None:
    assert refusal(body) == ("DuplicateKey", 400)


@pytest.mark.parametrize("other", ["TEXT", "Text", "tex\u0074".upper(), "te\u00d7t"])
def test_keys_that_differ_from_a_field_in_case_are_refused(other: str) -> None:
    body = json.dumps({"text": "1", other: "2"})
    if other.casefold() == "text":
        assert refusal(body, "text") == ("DuplicateKey", 400)
    else:
        assert texts(body, "text") == ["1"]
    assert texts(body) == ["1", "2"]
    assert refusal('{"mask": "1", "ma\u017fk": "2"}', "mask") == ("DuplicateKey", 400)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_is_not_quite_json_is_refused(constant: str) -> None:
    assert refusal(f'{{"a": {constant}}}') == ("NotJson", 400)


@pytest.mark.parametrize(
    "body",
    [
        "text",
        "{",
        '{"a": 1,}',
        "{'a': 1}",
        '{"a": 1} {"a": 2}',
        '{"a": 1}\n{"a": 2}',
        '"a\nb"',
        '"\x00"',
        "\ufeff{}",
        "\u00a0{}",
        "{}\x00",
        "// x\n{}",
        "text=1&a=b",
        " ",
        "9" * 5000,
    ],
)
def test_what_is_not_json_is_refused(body: str) -> None:
    assert refusal(body) == ("NotJson", 400)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "utf-8-sig"])
def test_other_encodings_that_parsers_guess_are_refused(encoding: str) -> None:
    body = '{"text": "1"}'.encode(encoding)
    assert json.loads(body) == {"text": "1"}
    assert refusal(body)[1] == 400


def test_bytes_that_are_not_utf8_are_refused() -> None:
    assert refusal(b'{"text": "\xff"}') == ("NotUtf8", 400)
    # An encoded surrogate: the standard library's parser lets it pass.
    assert json.loads(b'"\xed\xa0\x80"') == "\ud800"
    assert refusal(b'"\xed\xa0\x80"') == ("NotUtf8", 400)
    assert refusal(b'"\xc0\xa2"') == ("NotUtf8", 400)


@pytest.mark.parametrize("bomb", ["[" * 100_000, '{"a":' * 100_000, "[" * 990 + "]" * 990])
def test_deep_bodies_are_refused(bomb: str) -> None:
    assert refusal(bomb) == ("TooDeep", 400)


def test_details_quote_nothing() -> None:
    for body in ('{"secretword": 1, "secretword": 2}', '{"secretword" 1}', "secretword", "\xff"):
        with pytest.raises(UnreadableBody) as caught:
            texts(body, "text")
        assert "secretword" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("content-encoding", "gzip, gzip", "ContentEncoding"),
        ("Content-Encoding", "identity, BR", "ContentEncoding"),
        ("content-encoding", "aes128gcm", "ContentEncoding"),
        ("content-type", "application/x-www-form-urlencoded", "Form"),
        ("content-type", "Application/X-WWW-Form-Urlencoded; charset=utf-8", "Form"),
        ("content-type", "multipart/form-data; boundary=x", "Form"),
        ("content-type", "application/json; charset=utf-16", "Charset"),
        ("content-type", 'application/json; CharSet = "UTF-7"', "Charset"),
        ("content-type", "application/json;charset=utf-8;charset=cp037", "Charset"),
        ("content-type", "application/json; charset=utf-8 charset=cp037", "Charset"),
        ("content-type", "application/json; charset=us-ascii", "Charset"),
        ("content-type", "application/json; charset*=utf-8''utf-16", "Charset"),
    ],
)
def test_headers_by_which_other_text_is_read_are_refused(name: str, value: str, kind: str) -> None:
    headers = [(b"accept", b"*/*"), (name.encode(), value.encode())]
    with pytest.raises(UnreadableBody) as caught:
        check_headers(headers)
    assert (caught.value.kind, caught.value.status) == (kind, 415)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content-encoding", "identity"),
        ("content-encoding", "Identity, identity"),
        ("content-encoding", ""),
        ("content-type", "application/json"),
        ("content-type", "application/json; charset=UTF-8"),
        ("content-type", "application/json; charset='utf8'"),
        ("content-type", "application/json; charset"),
        ("content-type", "text/plain"),
        ("content-type", "application/vnd.api+json"),
        ("content-type", "nonsense"),
        ("accept-encoding", "gzip"),
    ],
)
def test_other_headers_are_no_hindrance(name: str, value: str) -> None:
    check_headers([(name.encode(), value.encode())])


@pytest.mark.parametrize("repeated", ["charset", "charset=", "charset=;", ";", "charset "])
def test_a_long_content_type_takes_no_time(repeated: str) -> None:
    """A client writes it, and it is read on the event loop."""
    started = time.process_time()
    is_utf8((repeated * 20_000).encode())
    assert time.process_time() - started < 1


def test_replacing_changes_only_the_texts() -> None:
    body = (
        ' {"a" : "one" ,\t"big":123456789012345678901234567890,"f":1.10E+2,\r\n"e":"\\u0041\\/",'
        '"text":["\\u006fne", "one\\"\\\\", "é\U0001f44d"],"z":"one\\\\","one":-0.0} '
    )
    document = parse(body.encode(), compile_fields(["text"]))
    assert document.texts == ["one", 'one"\\', "é\U0001f44d"]
    assert document.replace(document.texts) == body.encode()
    replaced = document.replace(['"\\\n', 'one"\\', "ü\U0001f44d"])
    assert replaced.decode() == body.replace('"\\u006fne"', '"\\"\\\\\\n"').replace(
        "é\U0001f44d", "ü\U0001f44d"
    )


words = st.text(st.characters(codec="utf-8"), max_size=6) | st.sampled_from(["\\", '"', "\\\\", ""])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(words, below, max_size=4),
    max_leaves=20,
)


def rename(value: Any) -> Any:
    if isinstance(value, str):
        return f"<{value}>"
    if isinstance(value, list):
        return [rename(item) for item in value]
    if isinstance(value, dict):
        return {key: rename(item) for key, item in value.items()}
    return value


@given(values, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_replacing_reaches_every_text_and_nothing_else(
    value: Any, ascii_only: bool, indent: Any
) -> None:
    source = json.dumps(value, ensure_ascii=ascii_only, indent=indent, allow_nan=True)
    if "Infinity" in source:
        return
    document = parse(source.encode(), None)
    assert document.replace(document.texts) == source.encode()
    replaced = document.replace([f"<{text}>" for text in document.texts])
    assert json.loads(replaced) == rename(value)


@given(values, values, words)
def test_replacing_below_a_field_leaves_the_rest(before: Any, after: Any, word: str) -> None:
    value = {"before": before, "text": {"x": [word, word]}, "after": after}
    source = json.dumps(value)
    if "Infinity" in source:
        return
    document = parse(source.encode(), compile_fields(["text"]))
    assert document.texts == [word, word]
    value["text"] = {"x": [word, "<>"]}
    assert json.loads(document.replace([word, "<>"])) == value


BODY = """{"messages": [{"role": "user", "content": "a"}, {"role": "x", "content": ["b"]}],
 "content": "c", "model": "m"}"""


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("$.messages[*].content", ["a", "b"]),
        ("$..content", ["a", "b", "c"]),
        ("$.messages[?@.role == 'user'].content", ["a"]),
        ("$.messages[-1:]", ["x", "b"]),
        ("$['content']", ["c"]),
        ("$", ["user", "a", "x", "b", "c", "m"]),
    ],
)
def test_jsonpath_names_places(query: str, found: list[str]) -> None:
    assert sorted(texts(BODY, query)) == sorted(found)


def test_what_several_queries_find_is_taken_once() -> None:
    document = parse(BODY.encode(), compile_fields(["$..content", "$.messages", "$.model"]))
    assert document.texts == ["user", "a", "x", "b", "c", "m"]
    replaced = document.replace([f"<{text}>" for text in document.texts])
    assert json.loads(replaced)["messages"][1] == {"role": "<x>", "content": ["<b>"]}
    assert replaced.endswith(b',\n "content": "<c>", "model": "<m>"}')


@pytest.mark.parametrize(
    ("body", "query", "refused"),
    [
        ('{"other": "a"}', "$.text", ("FieldMissing", 422)),
        ('{"text": 5}', "$.text", ("FieldNotText", 422)),
        ('{"text": "a", "TEXT": "b"}', "$.text", ("DuplicateKey", 400)),
        ('{"x": {"Text": "b"}, "y": {"text": "a"}}', "$..text", ("DuplicateKey", 400)),
        ('{"text": "a", "x": ' + '{"a":' * 500 + "1" + "}" * 501, "$..text", ("TooDeep", 400)),
    ],
)
def test_what_jsonpath_cannot_find_for_certain_is_refused(
    body: str, query: str, refused: tuple[str, int]
) -> None:
    assert refusal(body, query) == refused
