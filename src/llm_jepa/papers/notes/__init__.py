"""Reading notes on a PDF, each in a framed box near the top of its page (docs/pdf_notes.md).

    notes_file.py     a notes file -> `Note`s, checked
    page_geometry.py  a page as its reader sees it: cropped, rotated, scaled
    free_space.py     where a displayed page is free of text and ink
    draw.py           a note -> lines -> a drawn box
    place.py          which box goes where: free space, a band, an inserted page
    edit.py           changes to the PDF: forms, annotations, larger pages, page labels
    annotate.py       all of it on one file, in the child process
    guard.py          the parent: limits on time and memory, one error for whatever goes wrong; child.py is its child

A PDF is a program by a stranger, run by libraries with native code. So it is only ever opened in the child process:
whatever it does there ends as one error.
"""

from .guard import annotate_pdf
from .notes_file import Note, read_notes

__all__ = ["Note", "annotate_pdf", "read_notes"]
