"""The prompt of rerankers that read query and passage as one text."""

from dataclasses import dataclass, replace
from typing import Self

from runtime.errors import ProfileError

# The field for an instruction. Here, because benchmarks/gpu runs where nothing reads profiles.
INSTRUCTION = "{instruction}"


@dataclass(frozen=True)
class Template:
    """What stands before the query, between the two texts, and behind the passage. `before` has the
    field for an instruction if there is a default `instruction`; once it is `told`, it ends before
    that, and `lead` stands between it and the query."""

    before: str
    between: str
    after: str
    instruction: str | None = None
    told: str = ""
    lead: str = ""

    @classmethod
    def parse(cls, template: str, instruction: str | None = None) -> Self:
        """From a text with {query} and {passage}. Raises ProfileError."""
        before, query, rest = template.partition("{query}")
        between, passage, after = rest.partition("{passage}")
        if not (query and passage):
            raise ProfileError(
                f"found the template {template!r}, wanted {{query}} followed by {{passage}} in it"
            )
        return cls(before, between, after, instruction)

    def telling(self, instruction: str | None) -> Self:
        """The template with an `instruction`, or the default one, in its place."""
        if self.instruction is None:
            return self
        before, _, lead = self.before.partition(INSTRUCTION)
        told = instruction or self.instruction
        return replace(self, before=before, told=told, lead=lead, instruction=None)

    @property
    def opening(self) -> str:
        """All that stands before the query."""
        return f"{self.before}{self.told}{self.lead}"

    def join(self, query: str, passage: str) -> str:
        """The whole text."""
        return f"{self.opening}{query}{self.between}{passage}{self.after}"
