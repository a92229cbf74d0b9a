"""Reading notes on a PDF, each in a framed box near the top of its page (docs/pdf_notes.md).

    notes.py     a notes file -> `Note`s, checked
    geometry.py  a page as its reader sees it: cropped, rotated, scaled
    space.py     where a displayed page is free of text and ink
    draw.py      a note -> lines -> a drawn box
    place.py     which box goes where: free space, a band, an inserted page
    edit.py      changes to the PDF: forms, annotations, larger pages, page labels
    annotate.py  all of it on one file
    guard.py     the same in a child process with a limit on time and memory, whose side is child.py

A PDF is a program by a stranger, run by libraries with native code. So it is only ever opened in the child process:
whatever it does there ends as one error.
"""

from .guard import annotate_pdf
from .notes_file import Note, read_notes

__all__ = ["Note", "annotate_pdf", "read_notes"]
