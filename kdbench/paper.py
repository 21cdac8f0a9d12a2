"""The publication of a method or a dataset."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A publication, with what citations and BibTeX entries need."""

    title: str
    authors: tuple[str, ...]  # "Given Family", in the paper's order
    year: int
    venue: str                # "ICLR", "arXiv", ...
    arxiv: str | None = None  # "1503.02531"
    doi: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError unless there is at least one author and every author has a name."""
        if not self.authors or not all(author.split() for author in self.authors):
            raise ValueError("a paper has one author or more, each with a name")

    @property
    def url(self) -> str | None:
        """The address at arXiv or, without an arXiv number, that of the DOI; None without either."""
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        return f"https://doi.org/{self.doi}" if self.doi else None

    @property
    def short(self) -> str:
        """The citation in running text: "Ba and Caruana, 2014", or "Hinton et al., 2015" for three or more authors."""
        families = [author.split()[-1] for author in self.authors]
        return f"{' and '.join(families) if len(families) < 3 else families[0] + ' et al.'}, {self.year}"

    def __str__(self) -> str:
        return f"{self.short}. {self.title}. {self.venue}."
