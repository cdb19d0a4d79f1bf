#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the corpus of safetensors headers and shard indices next to this script.

A file's name says what must happen to it: accept__<what> or reject__<what>__<error code>.  The verdicts
were worked out by hand from the rules of the format (its README and its reference reader, and where
docs/SEMANTICS.md says that weightfs is stricter); no parser was asked.
"""
import json
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
U64 = 1 << 64
files = {}


def put(folder, name, code, suffix, content):
    path = f"{folder}/accept__{name}{suffix}" if code is None else f"{folder}/reject__{name}__{code}{suffix}"
    what = (folder, name)
    assert what not in {(f.split("/")[0], f.split("__")[1].split(".")[0]) for f in files}, what
    files[path] = content


def raw(name, code, content):
    put("header", name, code, ".safetensors", content)


def header(name, code, text, data=0, length=None):
    """A file with the header `text` and `data` zero bytes after it."""
    text = text.encode() if isinstance(text, str) else text
    raw(name, code, struct.pack("<Q", len(text) if length is None else length) + text + bytes(data))


def entry(dtype="F32", shape="[1]", offsets="[0,4]", more=""):
    dtype = dtype if dtype[:1] in '"{[0123456789tfn' else json.dumps(dtype)
    return '{"dtype":%s,"shape":%s,"data_offsets":%s%s}' % (dtype, shape, offsets, more)


def one(name, code, value, data=4):
    """A header with the one tensor "a"."""
    header(name, code, '{"a":%s}' % value, data)


def tensors(*values):
    return "{%s}" % ",".join('"t%d":%s' % (i, v) for i, v in enumerate(values))


E = "safetensors."
JSON, ENTRY, META, OFFSET = E + "invalid_json", E + "invalid_entry", E + "invalid_metadata", E + "invalid_offset"
NAME, KEY, DTYPE, OVERFLOW = E + "duplicate_name", E + "duplicate_key", E + "unknown_dtype", E + "shape_overflow"
ALIGN, SIZE, TRAILING, CUT = E + "misaligned", E + "size_mismatch", E + "trailing_bytes", E + "truncated"
SMALL, LARGE, LENGTH = E + "header_too_small", E + "header_too_large", E + "invalid_header_length"
GOOD = entry()


def length_field():
    for n in (0, 1, 4, 7):
        raw(f"file_of_{n}_bytes", SMALL, bytes(n))
    raw("length_zero", JSON, bytes(8))
    raw("length_zero_then_data", JSON, bytes(12))
    header("length_100000001", LARGE, "{}", length=100_000_001)
    header("length_2_to_32", LARGE, "{}", length=1 << 32)
    header("length_2_to_63", LARGE, "{}", length=1 << 63)
    header("length_2_to_63_minus_1", LARGE, "{}", length=(1 << 63) - 1)
    header("length_max", LARGE, "{}", length=U64 - 1)
    header("length_wraps_around", LARGE, "{}", length=U64 - 6)
    header("length_at_cap_in_a_small_file", LENGTH, "{}", length=100_000_000)
    header("length_one_too_long", LENGTH, "{}", length=3)
    header("length_one_too_short", JSON, "{}", length=1)
    header("length_big_endian", LARGE, '{"a":%s}' % GOOD, 4, length=int.from_bytes(struct.pack(">Q", 60), "little"))
    raw("length_ends_with_the_file", LENGTH, struct.pack("<Q", 2) + b"{")
    raw("length_without_json", LENGTH, struct.pack("<Q", 2))
    header("length_cuts_the_object", JSON, '{"a":%s}' % GOOD, 4, length=30)
    header("length_covers_data", JSON, '{"a":%s}' % GOOD, 4, length=len('{"a":%s}' % GOOD) + 4)
    filler = '{"__metadata__":{"k":"%s"},"a":%s}'
    header("exactly_100000_bytes", None, filler % ("x" * (100_000 - len(filler % ("", GOOD))), GOOD), 4)
    header("just_over_64_kib", None, filler % ("x" * 65_536, GOOD), 4)


def framing():
    header("no_tensors", None, "{}")
    header("only_metadata", None, '{"__metadata__":{"format":"pt"}}')
    header("one_tensor", None, '{"a":%s}' % GOOD, 4)
    for what, space in (("spaces", "   "), ("tab", "\t"), ("newline", "\n"), ("return", "\r"), ("mixed", " \t\r\n")):
        header(f"leading_{what}", None, space + '{"a":%s}' % GOOD, 4)
        header(f"trailing_{what}", None, '{"a":%s}' % GOOD + space, 4)
    header("space_everywhere", None, '\n{ "a" :\t{ "dtype" : "F32" , "shape" : [ 1 ] , "data_offsets" : [ 0 , 4 ] } } ', 4)
    header("page_aligned_by_leading_space", None, " " * (4088 - len('{"a":%s}' % GOOD)) + '{"a":%s}' % GOOD, 4)
    for what, byte in (("nul", b"\0"), ("vertical_tab", b"\v"), ("form_feed", b"\f"), ("del", b"\x7f"), ("x", b"x"),
                       ("comma", b","), ("brace", b"}"), ("no_break_space", b"\xc2\xa0"), ("bom", b"\xef\xbb\xbf")):
        header(f"leading_{what}", JSON, byte + ('{"a":%s}' % GOOD).encode(), 4)
        header(f"trailing_{what}", JSON, ('{"a":%s}' % GOOD).encode() + byte, 4)
    header("trailing_nul_padding", JSON, '{"a":%s}' % GOOD + "\0" * 7, 4)
    header("trailing_nul_then_garbage", JSON, '{"a":%s}' % GOOD + "\0{]", 4)
    header("nul_between_tokens", JSON, '{"a":\0%s}' % GOOD, 4)
    header("two_objects", JSON, '{"a":%s}{}' % GOOD, 4)
    header("two_objects_spaced", JSON, '{"a":%s} {"b":%s}' % (GOOD, GOOD), 4)
    header("only_spaces", JSON, "        ")
    for what, text in (("array", "[]"), ("array_of_entry", "[%s]" % GOOD), ("text", '"a"'), ("number", "0"), ("null", "null"),
                       ("true", "true")):
        header(f"top_level_{what}", JSON, text)
    header("utf16", JSON, '{"a":%s}'.encode("utf-16-le"))
    header("utf16_bom", JSON, "{}".encode("utf-16"))


def grammar():
    for what, text in (
            ("open_only", "{"), ("close_only", "}"), ("no_colon", '{"a" %s}' % GOOD), ("no_value", '{"a":}'),
            ("trailing_comma", '{"a":%s,}' % GOOD), ("leading_comma", '{,"a":%s}' % GOOD), ("only_comma", "{,}"),
            ("double_comma", '{"a":%s,,"b":%s}' % (GOOD, GOOD)), ("no_comma", '{"a":%s "b":%s}' % (GOOD, GOOD)),
            ("single_quotes", "{'a':%s}" % GOOD), ("bare_key", "{a:%s}" % GOOD), ("number_key", "{1:%s}" % GOOD),
            ("null_key", "{null:%s}" % GOOD), ("block_comment", '{/*c*/"a":%s}' % GOOD),
            ("line_comment", '{"a":%s}//c' % GOOD), ("hash_comment", '{"a":%s}#c' % GOOD),
            ("unclosed_text", '{"a'), ("unclosed_entry", '{"a":{"dtype":"F32"'), ("mismatched", '{"a":[}'),
            ("capital_null", '{"__metadata__":NULL}'), ("python_none", '{"__metadata__":None}')):
        header(f"grammar_{what}", JSON, text, 4)
    for what, value in (
            ("shape_trailing_comma", entry(shape="[1,]")), ("shape_double_comma", entry(shape="[1,,1]")),
            ("leading_zero", entry(shape="[01]")), ("plus_sign", entry(shape="[+1]")), ("hexadecimal", entry(shape="[0x1]")),
            ("two_zeros", entry(offsets="[00,4]")), ("underscore", entry(shape="[1_0]")), ("bare_minus", entry(shape="[-]")),
            ("point_only", entry(shape="[1.]")), ("no_integer_part", entry(shape="[.5]")), ("bare_exponent", entry(shape="[1e]")),
            ("nan", entry(more=',"x":NaN')), ("infinity", entry(more=',"x":Infinity')), ("minus_infinity", entry(more=',"x":-Infinity')),
            ("undefined", entry(more=',"x":undefined')), ("number_beyond_double", entry(more=',"x":1e999'))):
        one(f"grammar_{what}", JSON, value)


def nesting():
    # The entry is at level 2, so an array of n levels in it reaches level n + 2; 127 levels are allowed.
    for levels, code in ((1, None), (100, None), (125, None), (126, JSON), (127, JSON), (200, JSON), (20_000, JSON)):
        one(f"nested_arrays_{levels + 2}", code, entry(more=',"x":' + "[" * levels + "]" * levels))
    for levels, code in ((125, None), (126, JSON), (2_000, JSON)):
        one(f"nested_objects_{levels + 2}", code, entry(more=',"x":' + '{"y":' * levels + "0" + "}" * levels))
    header("nested_unclosed", JSON, '{"a":{"x":' + "[" * 10_000)
    header("nested_from_the_top", JSON, '{"a":' * 5_000)


def texts():
    for what, text in (("empty", '""'), ("dots", '"../../etc/passwd"'), ("absolute", '"/etc/passwd"'), ("escaped_nul", '"a\\u0000b"'),
                       ("newline_escape", '"a\\nb"'), ("all_escapes", '"\\"\\\\\\/\\b\\f\\n\\r\\t"'), ("unicode", '"größe.重み.🙂"'),
                       ("surrogate_pair", '"\\ud83d\\ude42"'), ("upper_case_hex", '"\\u00E9"'), ("raw_del", '"a\x7fb"'),
                       ("noncharacter", '"\uffff"'), ("terminal_escape", '"\\u001b[2J"'), ("module_prefix", '"module.a"'),
                       ("metadata_lookalike", '"__Metadata__"'), ("spaces", '"  "'), ("bom_inside", '"\ufeff"'),
                       ("last_code_point", '"\U0010ffff"'), ("of_5000_bytes", '"%s"' % ("n" * 5_000))):
        header(f"name_{what}", None, '{%s:%s}' % (text, GOOD), 4)
    for what, text in (("raw_tab", b'"a\tb"'), ("raw_newline", b'"a\nb"'), ("raw_nul", b'"a\0b"'), ("raw_0x01", b'"a\x01b"'),
                       ("raw_0x1f", b'"a\x1fb"'), ("byte_ff", b'"a\xff"'), ("lone_continuation", b'"\x80"'),
                       ("overlong_slash", b'"\xc0\xaf"'), ("overlong_nul", b'"\xc0\x80"'), ("overlong_3_bytes", b'"\xe0\x80\xaf"'),
                       ("encoded_surrogate", b'"\xed\xa0\x80"'), ("beyond_unicode", b'"\xf4\x90\x80\x80"'), ("cut_sequence", b'"\xe9"'),
                       ("five_byte_form", b'"\xf8\x88\x80\x80\x80"'), ("lone_high", b'"\\ud800"'), ("lone_low", b'"\\udc00"'),
                       ("swapped_pair", b'"\\ude42\\ud83d"'), ("high_then_letter", b'"\\ud83dx"'), ("high_then_escape", b'"\\ud83d\\n"'),
                       ("two_highs", b'"\\ud83d\\ud83d"'), ("short_escape", b'"\\u12"'), ("bad_hex", b'"\\u12g4"'),
                       ("unknown_escape", b'"\\x41"'), ("escaped_quote_end", b'"a\\"'), ("octal_escape", b'"\\101"')):
        header(f"name_{what}", JSON, b"{" + text + b":" + GOOD.encode() + b"}", 4)
    header("value_lone_surrogate", JSON, '{"__metadata__":{"k":"\\udfff"},"a":%s}' % GOOD, 4)
    header("value_invalid_utf8", JSON, b'{"__metadata__":{"k":"\xfe"},"a":' + GOOD.encode() + b"}", 4)
    header("ignored_value_invalid_utf8", JSON, b'{"a":' + entry(more=',"x":"?"').encode().replace(b"?", b"\xff") + b"}", 4)


def metadata():
    for what, value in (("empty", "{}"), ("null", "null"), ("texts", '{"format":"pt","k":""}'), ("empty_key", '{"":"v"}'),
                        ("nested_json_as_text", '{"k":"{\\"a\\":[1]}"}'), ("own_name", '{"__metadata__":"v"}')):
        header(f"metadata_{what}", None, '{"__metadata__":%s,"a":%s}' % (value, GOOD), 4)
    header("metadata_last", None, '{"a":%s,"__metadata__":{"k":"v"}}' % GOOD, 4)
    header("metadata_key_escaped", None, '{"\\u005f_metadata__":{"k":"v"},"a":%s}' % GOOD, 4)
    header("metadata_key_equal_to_a_tensor", None, '{"__metadata__":{"a":"v"},"a":%s}' % GOOD, 4)
    for what, value in (("text", '"x"'), ("number", "1"), ("array", "[]"), ("array_of_pairs", '[["k","v"]]'), ("true", "true"),
                        ("value_number", '{"k":1}'), ("value_null", '{"k":null}'), ("value_object", '{"k":{}}'),
                        ("value_array", '{"k":["v"]}'), ("value_bool", '{"k":false}'), ("value_float", '{"k":1.5}'),
                        ("second_value_number", '{"k":"v","l":-1}'), ("is_an_entry", GOOD)):
        header(f"metadata_{what}", META, '{"__metadata__":%s,"a":%s}' % (value, GOOD), 4)
    for what, text in (("key_twice", '{"__metadata__":{"k":"v","k":"w"}}'), ("key_twice_same_value", '{"__metadata__":{"k":"v","k":"v"}}'),
                       ("key_twice_escaped", '{"__metadata__":{"k":"v","\\u006b":"w"}}'),
                       ("key_twice_apart", '{"__metadata__":{"k":"v","l":"","m":"","k":"w"}}'),
                       ("twice", '{"__metadata__":{"k":"v"},"__metadata__":{"l":"w"}}'),
                       ("twice_empty", '{"__metadata__":{},"__metadata__":{}}'), ("twice_null", '{"__metadata__":null,"__metadata__":null}'),
                       ("twice_escaped", '{"__metadata__":{},"\\u005f\\u005fmetadata__":{}}')):
        header(f"metadata_{what}", KEY, text)


def duplicates():
    for what, first, second in (("same", GOOD, GOOD), ("other_dtype", GOOD, entry("I8", "[4]")), ("other_dtype_first", entry("I8", "[4]"), GOOD),
                                ("hidden_impossible_offsets", entry(shape="[9]", offsets="[100,136]"), GOOD),
                                ("both_in_place", GOOD, entry(offsets="[4,8]")), ("both_empty", entry(shape="[0]", offsets="[0,0]"), entry(shape="[0]", offsets="[0,0]"))):
        header(f"duplicate_{what}", NAME, '{"a":%s,"a":%s}' % (first, second), {"both_in_place": 8, "both_empty": 0}.get(what, 4))
    header("duplicate_escaped", NAME, '{"a":%s,"\\u0061":%s}' % (GOOD, entry(offsets="[4,8]")), 8)
    header("duplicate_empty_name", NAME, '{"":%s,"":%s}' % (GOOD, entry(offsets="[4,8]")), 8)
    header("duplicate_slash_escaped", NAME, '{"a/b":%s,"a\\/b":%s}' % (GOOD, entry(offsets="[4,8]")), 8)
    header("duplicate_surrogate_pair", NAME, '{"🙂":%s,"\\ud83d\\ude42":%s}' % (GOOD, entry(offsets="[4,8]")), 8)
    header("duplicate_far_apart", NAME, '{"t3":%s,%s' % (entry(offsets="[24,28]"), tensors(*[entry(offsets=f"[{4 * i},{4 * i + 4}]") for i in range(6)])[1:]), 28)
    header("names_differ_in_case", None, '{"a":%s,"A":%s}' % (GOOD, entry(offsets="[4,8]")), 8)
    header("names_differ_in_normal_form", None, '{"é":%s,"e\u0301":%s}' % (GOOD, entry(offsets="[4,8]")), 8)
    header("names_differ_after_nul", None, '{"a\\u0000b":%s,"a\\u0000c":%s}' % (GOOD, entry(offsets="[4,8]")), 8)
    for field, value in (("dtype", '"F32"'), ("shape", "[1]"), ("data_offsets", "[0,4]")):
        one(f"field_{field}_twice", KEY, GOOD[:-1] + ',"%s":%s}' % (field, value))
    one("field_dtype_twice_escaped", KEY, GOOD[:-1] + ',"d\\u0074ype":"F32"}')
    one("field_twice_first_is_other", KEY, '{"dtype":"I32","dtype":"F32","shape":[1],"data_offsets":[0,4]}')


def records():
    one("field_order_reversed", None, '{"data_offsets":[0,4],"shape":[1],"dtype":"F32"}')
    one("field_spelt_with_escapes", None, '{"\\u0064type":"F32","shape":[1],"data_offsets":[0,4]}')
    one("dtype_spelt_with_escapes", None, entry('"\\u004632"'))
    for what, value in (("number", "1"), ("minus_zero", "-0"), ("float", "1.5e3"), ("null", "null"), ("object", '{"dtype":"F32","a":{}}'),
                        ("arrays", "[1,[2,{}],[]]"), ("text", '"t"'), ("huge_number", "18446744073709551616")):
        one(f"unknown_field_{what}", None, entry(more=',"x":' + value))
    one("unknown_field_first", None, '{"x":{"shape":[]},"dtype":"F32","shape":[1],"data_offsets":[0,4]}')
    one("unknown_field_twice", None, entry(more=',"x":1,"x":2'))
    one("unknown_field_in_other_case", None, entry(more=',"Dtype":1'))
    for what, value in (("null", "null"), ("text", '"F32"'), ("number", "1"), ("true", "true"), ("array", '["F32",[1],[0,4]]'), ("empty_array", "[]"),
                        ("empty_object", "{}"), ("float", "1.5"),
                        ("without_dtype", '{"shape":[1],"data_offsets":[0,4]}'), ("without_shape", '{"dtype":"F32","data_offsets":[0,4]}'),
                        ("without_offsets", '{"dtype":"F32","shape":[1]}'), ("dtype_in_capitals", '{"DTYPE":"F32","shape":[1],"data_offsets":[0,4]}'),
                        ("dtype_null", entry("null")), ("dtype_number", entry("32")), ("dtype_object", entry('{"F32":null}')),
                        ("dtype_array", entry('["F32"]')), ("dtype_true", entry("true"))):
        one(f"record_{what}", ENTRY, value)
    for what, name in (("lower_case", "f32"), ("empty", ""), ("torch_name", "float32"), ("f8_e4m3fn", "F8_E4M3FN"), ("space", "F32 "), ("leading_space", " F32"),
                       ("nul", "F32\0"), ("u128", "U128"), ("f128", "F128"), ("i4", "I4"), ("bfloat16", "BFLOAT16"), ("c128", "C128"), ("cyrillic", "\u0412F16")):
        one(f"dtype_{what}", DTYPE, entry(json.dumps(name)))
    header("second_entry_null", ENTRY, '{"a":%s,"b":null}' % GOOD, 4)


def integers():
    for what, number in (("minus_one", "-1"), ("minus_zero", "-0"), ("float", "1.0"), ("exponent", "1e0"), ("capital_exponent", "1E0"), ("2_to_64", str(U64)),
                         ("10_to_30", "1" + "0" * 30), ("minus_2_to_63", "-9223372036854775808"), ("text", '"1"'), ("null", "null"), ("true", "true"),
                         ("array", "[1]"), ("object", "{}")):
        one(f"shape_holds_{what}", ENTRY, entry(shape=f"[{number}]"))
        one(f"offsets_hold_{what}", ENTRY, entry(offsets=f"[0,{number}]"))
    for what, value in (("number", "1"), ("text", '"[1]"'), ("null", "null"), ("object", '{"0":1}'), ("false", "false")):
        one(f"shape_is_{what}", ENTRY, entry(shape=value))
        one(f"offsets_are_{what}", ENTRY, entry(offsets=value))
    for what, value in (("none", "[]"), ("one", "[4]"), ("three", "[0,4,4]"), ("four", "[0,4,0,4]")):
        one(f"offsets_{what}", ENTRY, entry(offsets=value))
    one("shape_many_ones", None, entry(shape="[" + ",".join(["1"] * 500) + "]"))


def dtypes():
    bits = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16,
            "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64}
    for name, width in bits.items():
        one(f"dtype_{name}", None, entry(name, "[3,2]", f"[0,{6 * width // 8}]"), 6 * width // 8)
    for name, count, size in (("F4", 2, 1), ("F4", 8, 4), ("F6_E2M3", 4, 3), ("F6_E3M2", 4, 3), ("F6_E2M3", 8, 6)):
        one(f"dtype_{name}_x{count}", None, entry(name, f"[{count}]", f"[0,{size}]"), size)
    for name, count, size in (("F4", 1, 1), ("F4", 7, 4), ("F6_E2M3", 1, 1), ("F6_E2M3", 2, 2), ("F6_E3M2", 3, 3), ("F6_E3M2", 5, 4)):
        one(f"dtype_{name}_x{count}", ALIGN, entry(name, f"[{count}]", f"[0,{size}]"), size)
    one("dtype_F4_scalar", ALIGN, entry("F4", "[]", "[0,1]"), 1)
    one("dtype_F4_empty", None, entry("F4", "[0,7]", "[0,0]"), 0)


def sizes():
    one("scalar", None, entry(shape="[]"))
    one("empty_tensor", None, entry(shape="[0]", offsets="[0,0]"), 0)
    one("empty_in_one_dimension", None, entry(shape="[5,0,7]", offsets="[0,0]"), 0)
    one("zero_before_a_huge_dimension", None, entry(shape=f"[0,{1 << 63}]", offsets="[0,0]"), 0)
    one("zero_before_many_huge_dimensions", None, entry(shape=f"[0,{U64 - 1},{U64 - 1}]", offsets="[0,0]"), 0)
    one("zero_after_an_overflow", OVERFLOW, entry(shape=f"[{1 << 63},4,0]", offsets="[0,0]"), 0)
    one("zero_after_an_overflow_at_the_end", OVERFLOW, entry("U8", f"[{U64 - 1},{U64 - 1},0]", "[0,0]"), 0)
    one("zero_between", None, entry("U8", f"[{1 << 63},0,4]", "[0,0]"), 0)
    one("overflow_of_elements", OVERFLOW, entry(shape=f"[2,{1 << 63}]"))
    one("overflow_wraps_to_the_right_size", OVERFLOW, entry("U8", f"[{(1 << 32) + 1},{(1 << 32) + 1}]", f"[0,{((1 << 32) + 1) ** 2 % U64}]"))
    one("overflow_of_bits", OVERFLOW, entry("U8", f"[{1 << 61}]", f"[0,{1 << 61}]"))
    one("overflow_of_bits_f64", OVERFLOW, entry("F64", f"[{1 << 58}]", f"[0,{1 << 61}]"))
    one("bits_just_fit_but_data_is_missing", CUT, entry("U8", f"[{(1 << 61) - 1}]", f"[0,{(1 << 61) - 1}]"))
    one("offsets_max", SIZE, entry("U8", "[1]", f"[0,{U64 - 1}]"))
    for what, value in (("too_many_elements", entry(shape="[2]")), ("too_few_elements", entry(shape="[4]", offsets="[0,12]")), ("wider_dtype", entry("F64")),
                        ("narrower_dtype", entry("F16")), ("scalar", entry("F16", "[]")), ("empty_with_bytes", entry(shape="[0]")),
                        ("elements_without_bytes", entry(offsets="[0,0]"))):
        one(f"size_{what}", SIZE, value, {"too_few_elements": 12, "elements_without_bytes": 0}.get(what, 4))
    big = (1 << 61) - 1
    header("sum_near_2_to_64", CUT, tensors(*[entry("U8", f"[{big}]", f"[{i * big},{(i + 1) * big}]") for i in range(8)]), 4)


def layout():
    f = lambda begin, end, shape=None: entry("U8", f"[{end - begin}]" if shape is None else shape, f"[{begin},{end}]")
    header("two_in_order", None, tensors(f(0, 2), f(2, 5)), 5)
    header("two_in_reverse_order", None, tensors(f(2, 5), f(0, 2)), 5)
    header("many_shuffled", None, tensors(*[f(i * 3 % 20, i * 3 % 20 + 1) for i in range(20)]), 20)
    header("unaligned_f32", None, tensors(f(0, 1), entry(offsets="[1,5]")), 5)
    header("empty_at_the_start", None, tensors(f(0, 0), f(0, 4)), 4)
    header("empty_at_the_start_listed_last", None, tensors(f(0, 4), f(0, 0)), 4)
    header("empty_at_the_end", None, tensors(f(0, 4), f(4, 4)), 4)
    header("empty_between", None, tensors(f(0, 2), f(2, 4), f(2, 2)), 4)
    header("three_empty_between", None, tensors(f(2, 2), f(0, 2), f(2, 2), f(2, 4), f(2, 2)), 4)
    for what, data, values in (
            ("hole", 12, (f(0, 4), f(8, 12))), ("hole_of_one_byte", 5, (f(0, 2), f(3, 5))), ("hole_at_the_start", 8, (f(4, 8),)),
            ("overlap_same_range", 4, (f(0, 4), f(0, 4))), ("overlap_partly", 6, (f(0, 4), f(2, 6))), ("overlap_inside", 8, (f(0, 8), f(2, 4))),
            ("overlap_by_one", 7, (f(0, 4), f(3, 7))), ("backwards", 4, (entry(offsets="[4,0]"),)), ("backwards_second", 4, (f(0, 4), entry(offsets="[4,0]"))),
            ("empty_inside_another", 4, (f(0, 2), f(1, 1), f(2, 4))), ("empty_beyond_the_end", 4, (f(0, 4), f(5, 5))),
            ("empty_far_away", 0, (f(1 << 40, 1 << 40),)), ("begin_max", 4, (f(0, 4), f(U64 - 1, U64 - 1))),
            ("begin_not_zero_alone", 4, (f(1, 5),)), ("empty_before_hole", 4, (f(0, 0), f(1, 5)))):
        header(f"layout_{what}", OFFSET, tensors(*values), data)
    for surplus in (1, 4, 4096):
        header(f"surplus_{surplus}", TRAILING, '{"a":%s}' % GOOD, 4 + surplus)
    header("surplus_without_tensors", TRAILING, "{}", 1)
    header("surplus_after_only_empty_tensors", TRAILING, tensors(f(0, 0)), 1)
    raw("surplus_zip_directory", TRAILING, struct.pack("<Q", 2) + b"{}" + b"PK\x05\x06" + bytes(18))
    for missing in (1, 3, 4):
        header(f"data_lacks_{missing}", CUT, '{"a":%s}' % GOOD, 4 - missing)
    header("data_lacks_the_last_tensor", CUT, tensors(f(0, 4), f(4, 8)), 4)


def order_of_checks():
    header("order_length_before_json", LENGTH, "not json", length=99)
    header("order_json_before_offsets", JSON, '{"a":%s' % entry(offsets="[4,8]"), 8)
    header("order_duplicate_before_offsets", NAME, '{"a":%s,"a":%s}' % (entry(offsets="[4,8]"), entry(offsets="[4,8]")), 8)
    header("order_duplicate_before_truncation", NAME, '{"a":%s,"a":%s}' % (GOOD, GOOD), 0)
    one("order_offsets_before_overflow", OFFSET, entry(shape=f"[{U64 - 1},2]", offsets="[4,8]"), 8)
    one("order_overflow_before_alignment", OVERFLOW, entry("F4", f"[{U64 - 1}]"))
    one("order_alignment_before_size", ALIGN, entry("F4", "[7]", "[0,9]"), 9)
    one("order_size_before_file_end", SIZE, entry(shape="[2]"), 99)
    one("order_offsets_before_file_end", OFFSET, entry(offsets="[4,8]"), 4)
    header("order_json_before_records", JSON, '{"a":null,"b":}')
    header("order_json_before_dtype", JSON, '{"a":%s,' % entry('"F33"'), 4)
    header("order_json_before_metadata", JSON, '{"__metadata__":1,"a":%s}x' % GOOD, 4)
    header("order_json_before_duplicate_key", JSON, '{"__metadata__":{"k":"v","k":"w"},"x":[01]}')
    header("order_json_before_duplicate_name", JSON, '{"a":%s,"a":%s}}' % (GOOD, GOOD), 4)
    header("order_nesting_before_records", JSON, '{"a":null,"b":' + "[" * 200 + "]" * 200 + "}")
    header("order_utf8_before_entries", JSON, b'{"a":null,"\xff":1}')


def index(name, code, text):
    put("index", name, code, ".json", text.encode() if isinstance(text, str) else text)


IJSON, IDUP, IFILE = "index.invalid_json", "index.duplicate_name", "index.invalid_file_name"


def indices():
    wm = lambda pairs: '{"weight_map":{%s}}' % pairs
    index("usual", None, '{"metadata":{"total_size":8},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}')
    index("empty_map", None, wm(""))
    index("metadata_null", None, '{"metadata":null,"weight_map":{"a":"f"}}')
    index("metadata_of_all_kinds", None, '{"metadata":{"t":"v","n":1,"f":1.5,"b":true,"z":null,"a":[1],"o":{"k":{"k":1}}},"weight_map":{"a":"f"}}')
    index("metadata_last", None, '{"weight_map":{"a":"f"},"metadata":{}}')
    index("unknown_key", None, '{"x":{"weight_map":{"a":1}},"weight_map":{"a":"f"},"y":[1,{}],"z":null}')
    index("white_space", None, ' \n\t{\r\n "weight_map" : { "a" : "f" } } \n')
    for what, name in (("empty", ""), ("dots", "../x"), ("escape", "a\\nb"), ("unicode", "重み"), ("metadata", "metadata")):
        index(f"tensor_name_{what}", None, wm('"%s":"f"' % name))
    for what, name in (("spaces", "a b.safetensors"), ("dots_inside", "a..b"), ("unicode", "é.safetensors"), ("of_255_bytes", "f" * 255), ("tilde", "~"),
                       ("dash", "-rf"), ("colon", "c:x")):
        index(f"file_name_{what}", None, wm('"a":"%s"' % name))
    for what, name in (("empty", ""), ("dot", "."), ("dots", ".."), ("parent", "../f"), ("absolute", "/etc/passwd"), ("folder", "sub/f"), ("trailing_slash", "f/"),
                       ("backslash", "sub\\\\f"), ("nul", "f\\u0000.safetensors"), ("newline", "f\\n"), ("escape_character", "\\u001b[2J"), ("del", "f\x7f"),
                       ("hidden", ".f"), ("of_256_bytes", "f" * 256), ("escaped_slash", "..\\/f"), ("escaped_slash_code", "..\\u002ff")):
        index(f"file_name_{what}", IFILE, wm('"a":"%s"' % name))
    index("file_name_second_bad", IFILE, wm('"a":"f","b":"/f"'))
    for what, text in (("tensor", wm('"a":"f","a":"g"')), ("tensor_same_file", wm('"a":"f","a":"f"')), ("tensor_escaped", wm('"a":"f","\\u0061":"f"')),
                       ("weight_map", '{"weight_map":{"a":"f"},"weight_map":{"b":"f"}}'), ("metadata", '{"metadata":{},"metadata":{},"weight_map":{}}'),
                       ("metadata_key", '{"metadata":{"k":1,"k":2},"weight_map":{}}'), ("metadata_key_ignored_kind", '{"metadata":{"k":[],"k":{}},"weight_map":{}}'),
                       ("unknown_key", '{"x":1,"x":2,"weight_map":{}}'), ("weight_map_escaped", '{"weight_map":{},"weight\\u005fmap":{}}')):
        index(f"twice_{what}", IDUP, text)
    for what, text in (("empty_file", ""), ("only_space", " "), ("empty_object", "{}"), ("no_weight_map", '{"metadata":{}}'), ("array", "[]"), ("null", "null"),
                       ("weight_map_null", '{"weight_map":null}'), ("weight_map_array", '{"weight_map":[]}'), ("weight_map_text", '{"weight_map":"f"}'),
                       ("weight_map_number", '{"weight_map":1}'), ("weight_map_in_capitals", '{"WEIGHT_MAP":{"a":"f"}}'), ("metadata_array", '{"metadata":[],"weight_map":{}}'),
                       ("metadata_text", '{"metadata":"m","weight_map":{}}'), ("metadata_number", '{"metadata":1,"weight_map":{}}'), ("file_null", wm('"a":null')),
                       ("file_number", wm('"a":1')), ("file_float", wm('"a":1.5')), ("file_array", wm('"a":["f"]')), ("file_object", wm('"a":{"f":1}')),
                       ("file_true", wm('"a":true')), ("trailing_comma", wm('"a":"f",')), ("comment", '{"weight_map":{}/**/}'), ("trailing_nul", '{"weight_map":{}}\0'),
                       ("trailing_text", '{"weight_map":{}}x'), ("two_objects", '{"weight_map":{}}{}'), ("bom", '\ufeff{"weight_map":{}}'), ("cut_short", '{"weight_map":{"a":"f"'),
                       ("nan", '{"metadata":{"x":NaN},"weight_map":{}}'), ("lone_surrogate", wm('"\\ud800":"f"')), ("raw_newline", wm('"a\nb":"f"')),
                       ("nested_200", '{"x":%s,"weight_map":{}}' % ("[" * 200 + "]" * 200)), ("leading_zero", '{"metadata":{"x":01},"weight_map":{}}')):
        index(what, IJSON, text)
    index("order_json_before_file_name", IJSON, '{"weight_map":{"a":"/f"}')
    index("order_json_before_twice", IJSON, '{"weight_map":{"a":"f","a":"f"}},')
    index("invalid_utf8", IJSON, b'{"weight_map":{"\xff":"f"}}')


def main():
    for group in (length_field, framing, grammar, nesting, texts, metadata, duplicates, records, integers, dtypes, sizes, layout, order_of_checks, indices):
        group()
    for folder in ("header", "index"):
        (HERE / folder).mkdir(exist_ok=True)
        for old in (HERE / folder).iterdir():
            old.unlink()
    for name, content in files.items():
        (HERE / name).write_bytes(content)
    print(*(f"{folder}: {sum(f.startswith(folder) for f in files)} files" for folder in ("header", "index")), sep="\n")


if __name__ == "__main__":
    main()
