"""langchain-nvidia-ai-endpoints with images: a document's metadata, and data URLs to embed."""

from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings, NVIDIARerank

from clients.check import Server, assert_says
from clients.pages import EMBEDDER, QUERY, RANKER, Page, assert_embedded, assert_ranked, pages


def _document(page: Page, place: int) -> Document:
    image = {"image": page.url} if page.image else {}
    return Document(page.text, metadata={"place": place, **image})


def _ranker(server: Server, top_n: int) -> NVIDIARerank:
    return NVIDIARerank(base_url=f"{server.url}/v1", model=RANKER, top_n=top_n)


def _rank(server: Server, documents: list[Document]) -> tuple[list[int], list[float]]:
    ranked = _ranker(server, len(documents)).compress_documents(documents, QUERY)
    found = [document.metadata for document in ranked]
    return [one["place"] for one in found], [one["relevance_score"] for one in found]


def ranks(server: Server) -> None:
    """NVIDIARerank, 36 documents in batches of 32: texts, images, both; an empty text beside one"""
    given = pages()
    assert_ranked(given, *_rank(server, [_document(one, i) for i, one in enumerate(given)]))


def an_address_is_refused(server: Server) -> None:
    """NVIDIARerank passes addresses on, which are refused with the reason"""
    documents = [Document("", metadata={"image": "https://a.example/page.png"})]
    ranker = _ranker(server, 1)
    assert_says(lambda: ranker.compress_documents(documents, QUERY), "nothing is fetched")


def embeds(server: Server) -> None:
    """NVIDIAEmbeddings, which has no modality: data URLs as texts, alone and behind a caption"""
    given = pages()
    embedder = NVIDIAEmbeddings(base_url=f"{server.url}/v1", model=EMBEDDER)
    found = embedder.embed_documents([f"{one.text}\n{one.url}".strip() for one in given])
    assert_embedded(given, found)
