"""The RCCMD message: every recorded and invented vector, by position, in pieces, and back."""

from __future__ import annotations

import json
import unittest
from pathlib import Path

from agent.rccmd import codec
from agent.rccmd.codec import Command, Feed, Refused, encode, parse

CASES = json.loads((Path(__file__).parent / "cases" / "rccmd_messages.json").read_text(encoding="utf-8"))["messages"]
PREFIX = b"CONNECT TO RCCMD (SEND) MSG_EXECUTE "


def pieces_of(case: dict) -> list[bytes]:
    if "hex" in case:
        return [bytes.fromhex(case["hex"])]
    return [text.encode() for text in case.get("chunks", [case.get("text")])]


def expected_of(case: dict) -> Command | None:
    return None if case["expect"] is None else Command(case["expect"]["verb"], case["expect"]["arg"])


def through_feed(pieces: list[bytes], ended: bool = True) -> Command | None:
    """What a Feed makes of the pieces; None: refused, or (not ended) more is needed."""
    feed = Feed()
    try:
        for piece in pieces:
            command = feed.feed(piece, 0.0)
            if command is not None:
                return command
        return feed.end() if ended else None
    except Refused:
        return None


class Vectors(unittest.TestCase):
    def test_there_are_27_vectors_or_more(self) -> None:
        self.assertGreaterEqual(len(CASES), 27)

    def test_each_vector_is_parsed_as_one_message(self) -> None:
        for case in CASES:
            with self.subTest(case["id"]):
                self.assertEqual(parse(b"".join(pieces_of(case))), expected_of(case))

    def test_each_vector_is_read_in_its_pieces_and_byte_by_byte(self) -> None:
        for case in CASES:
            with self.subTest(case["id"]):
                data = b"".join(pieces_of(case))
                self.assertEqual(through_feed(pieces_of(case)), expected_of(case))
                self.assertEqual(through_feed([data[i : i + 1] for i in range(len(data))]), expected_of(case))

    def test_the_seen_messages_are_written_byte_for_byte(self) -> None:
        for case in CASES:
            if case["evidence"] in "AB":
                with self.subTest(case["id"]):
                    verb, argument = case["expect"]["verb"], case["expect"]["arg"]
                    self.assertEqual(encode(verb, argument, terminator="none"), case["text"].encode())


class Position(unittest.TestCase):
    def test_a_verb_anywhere_else_is_not_a_verb(self) -> None:
        for text in (
            b"X" + PREFIX + b"SHUTDOWN",
            b" " + PREFIX + b"SHUTDOWN",
            b"CONNECT TO RCCMD (SEND)  MSG_EXECUTE SHUTDOWN",
            PREFIX + b" SHUTDOWN",
            PREFIX + b"NOW SHUTDOWN",
            PREFIX + b"SHUTDOWN NOW",
            PREFIX + b"Shutdown",
            PREFIX + b"SHUTDOWN\tx",
            b"CONNECT TO RCCMD (SEND)SHUTDOWN",
            b"CONNECT TO RCCMD (SEND)\n\n\nMSG_EXECUTE SHUTDOWN",
            b"CONNECT TO RCCMD (SEND) MSG_EXECUTE\nSHUTDOWN",
            PREFIX + b"\xd3HUTDOWN",
        ):
            with self.subTest(text):
                self.assertIsNone(parse(text))

    def test_an_argument_is_needed_where_the_verb_takes_one(self) -> None:
        for text in (b"MSG_TEXT", b"MSG_TEXT ", b"EXECUTE", b"EXECUTE   \n"):
            self.assertIsNone(parse(PREFIX + text), text)

    def test_blanks_after_a_bare_verb_are_forgiven(self) -> None:
        self.assertEqual(parse(PREFIX + b"SHUTDOWN  \r\n"), Command("SHUTDOWN"))

    def test_a_text_keeps_its_blanks(self) -> None:
        self.assertEqual(parse(PREFIX + b"MSG_TEXT  a  b "), Command("MSG_TEXT", " a  b "))

    def test_a_text_that_is_not_utf8_is_latin1(self) -> None:
        self.assertEqual(parse(PREFIX + b"MSG_TEXT \x80\xdc"), Command("MSG_TEXT", "\x80Ü"))

    def test_2048_bytes_are_taken_and_2049_are_not(self) -> None:
        longest = (PREFIX + b"MSG_TEXT ").ljust(codec.LIMIT_BYTES, b"x")
        self.assertIsNotNone(parse(longest))
        self.assertIsNotNone(through_feed([longest]))
        self.assertIsNone(parse(longest + b"x"))
        self.assertIsNone(through_feed([longest + b"x"]))
        self.assertIsNone(through_feed([longest, b"\n"]))


class Reading(unittest.TestCase):
    def test_junk_is_refused_at_its_first_wrong_byte(self) -> None:
        for junk in (
            b"l\0\x0b\0",
            b"GET",
            b"CONNECT TO HELL",
            PREFIX + b"SHUTX",
            PREFIX + b"SHUTDOWN N",
            PREFIX + b"Q ",
        ):
            with self.subTest(junk), self.assertRaises(Refused):
                Feed().feed(junk, 0.0)

    def test_the_refusal_shows_the_bytes(self) -> None:
        with self.assertRaisesRegex(Refused, "GET / HTTP"):
            Feed().feed(b"GET / HTTP/1.0\r\n", 0.0)

    def test_what_follows_the_command_is_not_looked_at(self) -> None:
        feed = Feed()
        self.assertEqual(feed.feed(PREFIX + b"WAKEUP\n" + b"x" * 10_000, 0.0), Command("WAKEUP"))

    def test_an_unended_command_is_understood_after_two_idle_seconds(self) -> None:
        feed = Feed()
        self.assertIsNone(feed.feed(PREFIX + b"SHUTDOWN", 100.0))
        self.assertEqual(feed.idle_at_s, 102.0)
        self.assertIsNone(feed.idle(101.9))
        self.assertEqual(feed.idle(102.0), Command("SHUTDOWN"))

    def test_half_a_keyword_is_never_understood_by_idling(self) -> None:
        for half in (b"", b"CONNECT TO RCCMD (SEND)\n", PREFIX, PREFIX + b"SHUTDOW", PREFIX + b"MSG_TEXT "):
            feed = Feed()
            self.assertIsNone(feed.feed(half, 0.0), half)
            self.assertIsNone(feed.idle(1000.0), half)

    def test_an_early_end_is_refused(self) -> None:
        for half in (b"", b"CONNECT TO", PREFIX, PREFIX + b"SHUTDOW", PREFIX + b"EXECUTE"):
            feed = Feed()
            feed.feed(half, 0.0)
            with self.subTest(half), self.assertRaises(Refused):
                feed.end()


class Writing(unittest.TestCase):
    def test_the_terminator_can_be_chosen(self) -> None:
        ends = {name: encode("SHUTDOWN", terminator=name)[len(PREFIX) :] for name in codec.TERMINATORS}
        self.assertEqual(
            ends, {"none": b"SHUTDOWN", "lf": b"SHUTDOWN\n", "crlf": b"SHUTDOWN\r\n", "nul": b"SHUTDOWN\0"}
        )

    def test_a_template_can_say_it_in_another_way(self) -> None:
        self.assertEqual(encode("EXECUTE", "x", template="HELLO {command}!"), b"HELLO EXECUTE x!\n")
        self.assertEqual(encode("SHUTDOWN", template="MSG_SHUTDOWN", terminator="nul"), b"MSG_SHUTDOWN\0")

    def test_what_no_receiver_understands_is_not_written(self) -> None:
        for verb, argument in (
            ("MSG_TEXT", "a\nb"),
            ("MSG_TEXT", "a\0"),
            ("MSG_TEXT", "\x1b[2J"),
            ("MSG_TEXT", ""),
            ("SHUTDOWN", "now"),
            ("", ""),
            ("TWO WORDS", ""),
            ("MSG_TEXT", "x" * 2048),
        ):
            with self.subTest(verb=verb, argument=argument[:20]), self.assertRaises(ValueError):
                encode(verb, argument)
        with self.assertRaises(ValueError):
            encode("SHUTDOWN", terminator="lfcr")

    def test_a_verb_that_we_do_not_know_is_sent_as_given(self) -> None:
        self.assertEqual(encode("TRAP", "7"), PREFIX + b"TRAP 7\n")

    def test_a_printable_text_has_no_controls(self) -> None:
        self.assertEqual(codec.printable("a\x1b[31m\u202eb\u2028c\x7f\x9bü\n"), "a[31mbcü")


if __name__ == "__main__":
    unittest.main()
