"""The report: what a run gave, on one page."""

from blt.report.collect import Artefacts, collect
from blt.report.page import headline_figures, render_page, write_page

__all__ = ["Artefacts", "collect", "headline_figures", "render_page", "write_page"]
