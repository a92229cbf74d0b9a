"""Write reading notes onto a PDF, each in a framed box near the top of its page (docs/pdf_notes.md).

    notes_file.py     a notes file -> `Note`s, checked
    page_geometry.py  a page as its reader sees it: cropped, rotated, scaled
    free_space.py     where a displayed page is free of text and ink
    draw.py           a note -> lines -> a drawn box
    place.py          where each box goes: free space, a band, an inserted page
    edit.py           changes to the PDF: forms, annotations, larger pages, page labels
    annotate.py       all these steps on one file, in a child process
    guard.py          its parent: limits on time and memory, one error for whatever goes wrong

A PDF is like a program from a stranger, and libraries with native code run it. So it is opened only in the child
process, where every failure ends as one error.
"""

from .guard import annotate_pdf
from .notes_file import Note, read_notes

__all__ = ["Note", "annotate_pdf", "read_notes"]
