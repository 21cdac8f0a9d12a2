"""The publication of a method or a dataset."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A publication, as citations and BibTeX entries need it."""

    title: str
    authors: tuple[str, ...]  # "Given Family", in the paper's order
    year: int
    venue: str                # "ICLR", "arXiv", ...
    arxiv: str | None = None  # "1503.02531"
    doi: str | None = None

    def __post_init__(self) -> None:
        """ValueError without authors, or with one that has no name."""
        if not self.authors or not all(author.split() for author in self.authors):
            raise ValueError("a paper has one author or more, each with a name")

    @property
    def url(self) -> str | None:
        """The address at arXiv, or else by DOI; None if it has neither."""
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        return f"https://doi.org/{self.doi}" if self.doi else None

    @property
    def short(self) -> str:
        """The citation in running text, such as "Ba and Caruana, 2014"; from three authors on "Hinton et al., 2015"."""
        families = [author.split()[-1] for author in self.authors]
        return f"{' and '.join(families) if len(families) < 3 else families[0] + ' et al.'}, {self.year}"

    def __str__(self) -> str:
        return f"{self.short}. {self.title}. {self.venue}."
