"""The prompt of rerankers that read query and passage as one text."""

from dataclasses import dataclass, replace
from typing import Self

from runtime.errors import ProfileError

# The field for an instruction. Here, because benchmarks/gpu runs where nothing reads profiles.
INSTRUCTION = "{instruction}"


def filled(template: str, instruction: str | None, instruction_format: str | None = None) -> str:
    """The template with an `instruction` in its field; an empty one leaves nothing there.
    `instruction_format` is the text that stands for the field, with {instruction} in it; None is
    the instruction alone."""
    told = (
        (instruction_format or INSTRUCTION).replace(INSTRUCTION, instruction) if instruction else ""
    )
    return template.replace(INSTRUCTION, told)


@dataclass(frozen=True)
class Template:
    """What stands before the query, between the two texts, and behind the passage.

    `before` has the field for an instruction if there is a default `instruction`, which may be
    empty; once it is `told`, `before` ends before that, and `lead` stands between it and the query.
    `instruction_format` is as in `filled`. With `tokenize_apart` the query and the passage each end
    a part that is tokenised by itself.
    """

    before: str
    between: str
    after: str
    instruction: str | None = None
    instruction_format: str | None = None
    tokenize_apart: bool = False
    told: str = ""
    lead: str = ""

    @classmethod
    def parse(
        cls,
        template: str,
        instruction: str | None = None,
        instruction_format: str | None = None,
        *,
        tokenize_apart: bool = False,
    ) -> Self:
        """From a text with {query} and {passage}. Raises ProfileError."""
        before, query, rest = template.partition("{query}")
        between, passage, after = rest.partition("{passage}")
        if not (query and passage):
            raise ProfileError(
                f"found the template {template!r}, wanted {{query}} followed by {{passage}} in it"
            )
        return cls(before, between, after, instruction, instruction_format, tokenize_apart)

    def telling(self, instruction: str | None) -> Self:
        """The template with an `instruction`, or the default one, in its place."""
        if self.instruction is None:
            return self
        before, _, lead = self.before.partition(INSTRUCTION)
        told = instruction or self.instruction
        if told:
            ahead, _, behind = (self.instruction_format or INSTRUCTION).partition(INSTRUCTION)
            before, lead = before + ahead, behind + lead
        return replace(self, before=before, told=told, lead=lead, instruction=None)

    @property
    def opening(self) -> str:
        """All that stands before the query."""
        return f"{self.before}{self.told}{self.lead}"

    def join(self, query: str, passage: str) -> str:
        """The whole text."""
        return f"{self.opening}{query}{self.between}{passage}{self.after}"

    def parts(self, query: str, passage: str) -> tuple[str, str, str]:
        """The whole text in parts, of which the query and the passage each end one."""
        return f"{self.opening}{query}", f"{self.between}{passage}", self.after

    def pieces(self, query: str, passage: str) -> list[list[tuple[str, bool]]]:
        """What is tokenised by itself, each in pieces; whether a piece is the template's own."""
        ahead = [(self.before, True), (self.told, False), (self.lead, True), (query, False)]
        parts = [ahead, [(self.between, True), (passage, False)], [(self.after, True)]]
        return parts if self.tokenize_apart else [[piece for part in parts for piece in part]]
