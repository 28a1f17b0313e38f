"""Retrieve then rerank: a quick search finds 15 candidates, the reranker picks the best 5.

    python examples/retrieve_then_rerank.py "something that reminds me to drink water"

Needs `pip install ./rerank_client` and a server (`make serve`; RERANK_URL is its address, else
http://localhost:8000). While the server is down, the search's own order is shown.
"""

import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rerank_client import RerankClient

TOP_K = 5
CANDIDATES = 3 * TOP_K
QUESTION = "an app that helps me focus while I work at home"


@dataclass(frozen=True)
class Project:
    """One entry of the corpus."""

    title: str
    description: str

    @property
    def document(self) -> str:
        """The text that is searched and reranked."""
        return f"{self.title}: {self.description}"


PROJECTS = (
    Project("Quiet Desk", "blocks noisy web sites on your computer while a work timer runs"),
    Project("Sipwell", "reminds you to drink a glass of water every hour of the day"),
    Project("Mailsmith", "writes polite answers to work mail from a few of your own words"),
    Project("Barometer Bar", "a small weather widget for the corner of the desktop"),
    Project("Deep Hour", "plays calm sounds that help you focus when you work at home"),
    Project("Ledgerling", "an app that sorts the receipts of a small company by itself"),
    Project("Loafer", "a calendar for people who bake sourdough bread at home"),
    Project("Standfast", "tells you to stand up after you sat at the desk for too long"),
    Project("Tidepool", "maps the best time to walk the beach at low tide"),
    Project("Mosslight", "an open lamp that follows the sun to help you fall asleep"),
    Project("Pull Quote", "a browser plug-in that collects what you marked in articles"),
    Project("Roommate Radio", "one playlist that everybody at home may add a song to"),
    Project("Shelfie", "finds a book in your home from a photo of the shelf"),
    Project("Kanbanana", "a cheerful board for tasks, for teams that work in two time zones"),
    Project("Trailhead", "plans hikes that begin and end at a train station"),
    Project("One Tab", "lets a single browser tab be open until your task is done"),
    Project("Seedling", "an app that tells you when to water which plant on the balcony"),
    Project("Standup Bot", "asks the team each morning what they work on and writes it down"),
    Project("Night Owl", "a code editor theme with colours that are easy on tired eyes"),
    Project("Door Note", "shows your family on a small screen whether you are in a meeting"),
)


def retrieve(question: str, projects: Sequence[Project], limit: int) -> list[Project]:
    """The projects that share the most words with the question; a stand-in for vector search."""
    wanted = _words(question)

    def shared(project: Project) -> int:
        return len(wanted & _words(project.document))

    return sorted(projects, key=shared, reverse=True)[:limit]


def _words(text: str) -> set[str]:
    """Words of at least four letters: shorter ones (a, to, the) are everywhere."""
    return set(re.findall(r"\w{4,}", text.lower()))


def main() -> None:
    """Print the best projects for the question on the command line."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    question = " ".join(sys.argv[1:]) or QUESTION
    candidates = retrieve(question, PROJECTS, CANDIDATES)
    documents = [project.document for project in candidates]
    with RerankClient() as client:
        result = client.rerank_or_keep_order(question, documents, top_n=TOP_K)

    print(f"{question!r}: {'not reranked, as searched' if result.degraded else 'reranked'}")
    for place, index in enumerate(result.ranked_indices, start=1):
        score = "" if result.degraded else f"  {result.scores[index]:+.3f}"
        print(f"{place}. {candidates[index].title}{score}")


if __name__ == "__main__":
    main()
